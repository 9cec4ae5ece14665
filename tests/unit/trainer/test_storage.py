"""The bucket's door: what it does on a local store, and what it says when a server refuses, fails or is not there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from lora_trainer import storage, storage_errors
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.run import Storage
from lora_trainer.errors import TrainerError
from lora_trainer.storage import Bucket, open_bucket
from obstore.store import MemoryStore

from tests.support.cloud_stores import CloudStore
from tests.support.stub_server import Answer, Request, stub_server

SECRET = "the-secret-access-key"
WORK = "s3://team-a/work"


@pytest.fixture
def bucket() -> Bucket:
    store = MemoryStore()
    return Bucket(open_store=lambda _: store)


def manifest(files: tuple) -> SetManifest:
    return SetManifest(fingerprint="f", files=files)


def write_folder(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub/empty").write_bytes(b"")
    return folder


def test_files_are_written_read_listed_and_deleted(bucket: Bucket) -> None:
    assert bucket.write("s3://team-a/x/one", b"0123")
    assert bucket.read("s3://team-a/x/one") == b"0123"
    assert bucket.read("s3://team-a/x/one", start=1, end=3) == b"12"
    assert [(file.path, file.size) for file in bucket.list("s3://team-a/x/")] == [("one", 4)]
    assert bucket.exists("s3://team-a/x/one")
    assert not bucket.exists("s3://team-a/x")
    bucket.delete("s3://team-a/x/one")
    bucket.delete("s3://team-a/x/one")
    assert bucket.list("s3://team-a/x") == []
    with pytest.raises(FileNotFoundError):
        bucket.read("s3://team-a/x/one")


@pytest.mark.parametrize("largest", [storage.LARGEST_COPY_BYTES, 2])
def test_a_file_is_copied_inside_its_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(storage, "LARGEST_COPY_BYTES", largest)
    bucket.write(f"{WORK}/a", b"contents")
    bucket.copy(f"{WORK}/a", f"{WORK}/elsewhere/b")
    assert bucket.read(f"{WORK}/elsewhere/b") == b"contents"
    with pytest.raises(FileNotFoundError):
        bucket.copy(f"{WORK}/nothing", f"{WORK}/c")


def test_only_the_first_conditional_write_counts(bucket: Bucket) -> None:
    assert bucket.write("s3://team-a/x", b"first", if_absent=True)
    assert not bucket.write("s3://team-a/x", b"second", if_absent=True)
    assert bucket.read("s3://team-a/x") == b"first"


def test_a_set_travels_whole(bucket: Bucket, tmp_path: Path) -> None:
    data = bucket.publish_set(write_folder(tmp_path / "out"), WORK, manifest=manifest)
    found = bucket.read_manifest(WORK, SetManifest)
    assert found
    assert found.model_dump_json(by_alias=True, exclude_none=True).encode() == data
    assert [file.path for file in found.files] == ["a.txt", "sub/empty"]
    bucket.fetch_files(found.files, WORK, tmp_path / "in")
    assert (tmp_path / "in/a.txt").read_text() == "a"
    assert (tmp_path / "in/sub/empty").read_bytes() == b""


def test_a_set_without_its_manifest_does_not_exist(bucket: Bucket, tmp_path: Path) -> None:
    bucket.upload_files(write_folder(tmp_path / "out"), WORK)
    assert bucket.read_manifest(WORK, SetManifest) is None
    bucket.write(f"{WORK}/manifest.json", b'{"fingerprint": "f", "fil')
    assert bucket.read_manifest(WORK, SetManifest) is None


def test_while_a_set_is_replaced_there_is_none(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "out")
    bucket.publish_set(folder, WORK, manifest=manifest)

    def interrupted(_: Path, uri: str) -> None:
        raise TrainerError(ExitCode.StorageUnavailable, uri)

    monkeypatch.setattr(bucket, "upload", interrupted)
    with pytest.raises(TrainerError):
        bucket.publish_set(folder, WORK, manifest=manifest)
    assert bucket.read_manifest(WORK, SetManifest) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda bucket: bucket.write(f"{WORK}/a.txt", b"b"), "the sha256 of a.txt"),
        (lambda bucket: bucket.write(f"{WORK}/a.txt", b"ab"), "a.txt has 2 bytes instead of 1"),
        (lambda bucket: bucket.delete(f"{WORK}/a.txt"), "a.txt is missing"),
    ],
)
def test_damage_is_noticed(bucket: Bucket, tmp_path: Path, damage: Callable[[Bucket], object], words: str) -> None:
    bucket.publish_set(write_folder(tmp_path / "out"), WORK, manifest=manifest)
    found = bucket.read_manifest(WORK, SetManifest)
    assert found
    damage(bucket)
    with pytest.raises(TrainerError, match=words) as caught:
        bucket.fetch_files(found.files, WORK, tmp_path / "in")
    assert caught.value.code is ExitCode.StorageUnavailable


def test_a_prefix_is_deleted_and_its_neighbour_stays(bucket: Bucket) -> None:
    for path in ("work/a/manifest.json", "work/a/b", "work/ab"):
        bucket.write(f"s3://team-a/{path}", b"")
    assert bucket.delete_prefix(f"{WORK}/a") == 2
    assert [file.path for file in bucket.list(WORK)] == ["ab"]
    with pytest.raises(ValueError, match="whole bucket"):
        bucket.delete_prefix("s3://team-a")


def test_folders_are_downloaded_in_part(bucket: Bucket, tmp_path: Path) -> None:
    for name in ("config.json", "model.bin"):
        bucket.write(f"{WORK}/{name}", b"{}")
    folder = bucket.download_folder(WORK, tmp_path / "in", wanted=lambda name: name.endswith(".json"))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_volume_is_read_where_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "claim/models").mkdir(parents=True)
    (tmp_path / "claim/models/config.json").write_text("{}")
    bucket = open_bucket(Storage(work_uri=WORK), pvc_root=tmp_path)
    assert [file.path for file in bucket.list("pvc://claim/models")] == ["config.json"]
    assert bucket.read("pvc://claim/models/config.json") == b"{}"
    assert bucket.download_folder("pvc://claim/models", tmp_path / "copy") == tmp_path / "claim/models"
    assert bucket.list("pvc://other/models") == []
    assert not bucket.exists("pvc://other/models")


@pytest.mark.parametrize("uri", ["s3://team-a/a/../../etc", "pvc://claim/../x"])
def test_a_path_may_not_leave_its_folder(bucket: Bucket, uri: str) -> None:
    with pytest.raises(TrainerError) as caught:
        bucket.read(uri)
    assert caught.value.code is ExitCode.ConfigInvalid


def test_a_manifest_may_not_name_files_elsewhere(bucket: Bucket, tmp_path: Path) -> None:
    evil = SetManifest.model_validate({"fingerprint": "f", "files": [{"path": "../x", "size": 1, "sha256": "0" * 64}]})
    with pytest.raises(TrainerError) as caught:
        bucket.fetch_files(evil.files, WORK, tmp_path / "in")
    assert caught.value.code is ExitCode.ConfigInvalid


def s3_error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=0.3))
    return lambda endpoint: open_bucket(Storage(work_uri=WORK, endpoint=endpoint))


@pytest.mark.parametrize("action", ["read", "write", "list", "delete"])
@pytest.mark.parametrize(
    ("answer", "code", "words", "remedy"),
    [
        (Answer(status=403, body=s3_error("InvalidAccessKeyId")), ExitCode.StorageDenied, "AccessKeyId", "Correct"),
        (Answer(status=403, body=s3_error("SignatureDoesNotMatch")), ExitCode.StorageDenied, "refused to", "Correct"),
        (Answer(status=403, body=s3_error("AccessDenied")), ExitCode.StorageDenied, "AccessDenied", "Allow these"),
        (Answer(status=403, body=s3_error("RequestTimeTooSkewed")), ExitCode.StorageDenied, "refused", "clock"),
        (Answer(status=401), ExitCode.StorageDenied, "HTTP 401", "Allow these"),
        (Answer(status=404, body=s3_error("NoSuchBucket")), ExitCode.StorageDenied, "does not exist", "Create"),
        (Answer(status=404, body=s3_error("XAdminUserNotFound")), ExitCode.StorageDenied, "refused", "Correct"),
        (Answer(status=301), ExitCode.StorageDenied, "did not accept", "region"),
        (Answer(status=400, body=s3_error("AuthorizationHeaderMalformed")), ExitCode.StorageDenied, "accept", "region"),
        (Answer(status=503, body=s3_error("SlowDown")), ExitCode.StorageUnavailable, "did not answer", "endpoint"),
        (Answer(status=500), ExitCode.StorageUnavailable, "HTTP 500", "reachable"),
    ],
)  # fmt: skip
def test_refusals_become_sentences(
    remote: Callable[[str], Bucket], action: str, answer: Answer, code: ExitCode, words: str, remedy: str
) -> None:
    with stub_server(lambda _: answer) as endpoint, pytest.raises(TrainerError) as caught:
        act(remote(endpoint), action)
    assert caught.value.code is code
    assert words in caught.value.message
    assert "team-a" in caught.value.message
    assert remedy in (caught.value.remedy or "")
    assert SECRET not in caught.value.message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "a log with the store's own text would echo what it was sent"


def act(bucket: Bucket, action: str) -> None:
    uri = f"{WORK}/file"
    actions = {
        "read": lambda: bucket.read(uri),
        "write": lambda: bucket.write(uri, b""),
        "list": lambda: bucket.list(uri),
        "delete": lambda: bucket.delete(uri),
    }
    actions[action]()


def test_a_server_that_is_not_there(remote: Callable[[str], Bucket]) -> None:
    with pytest.raises(TrainerError) as caught:
        remote("http://127.0.0.1:9").write(f"{WORK}/x", b"")
    assert caught.value.code is ExitCode.StorageUnavailable


def test_a_short_outage_goes_unnoticed(remote: Callable[[str], Bucket]) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Answer:
        seen.append(request)
        return Answer(status=503 if len(seen) == 1 else 200, headers={"ETag": '"x"'})

    with stub_server(answer) as endpoint:
        assert remote(endpoint).write(f"{WORK}/x", b"")
    assert [request.method for request in seen] == ["PUT", "PUT"]


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in storage.CREDENTIAL_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_for_an_endpoint() -> None:
    with pytest.raises(TrainerError, match="no credentials") as caught:
        open_bucket(Storage(work_uri=WORK, endpoint="http://127.0.0.1:9")).read(f"{WORK}/x")
    assert caught.value.code is ExitCode.StorageDenied
    assert "AWS_ACCESS_KEY_ID" in (caught.value.remedy or "")


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_in_the_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server(lambda _: Answer(status=404)) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata)
        with pytest.raises(TrainerError, match="no credentials") as caught:
            open_bucket(Storage(work_uri=WORK)).read(f"{WORK}/x")
    assert caught.value.code is ExitCode.StorageDenied


def test_a_file_that_may_not_be_read() -> None:
    with pytest.raises(TrainerError, match="may not read the files") as caught, storage_errors.explained(WORK, "read"):
        raise PermissionError(13, "Permission denied")
    assert caught.value.code is ExitCode.StorageDenied


GOOGLE = {"GOOGLE_BEARER_TOKEN": SECRET}
AZURE = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"}
CLOUDS = pytest.mark.parametrize(
    ("scheme", "environment", "endpoint_variable"),
    [("gs", GOOGLE, "GOOGLE_BASE_URL"), ("az", AZURE, "AZURE_ENDPOINT")],
)


@CLOUDS
def test_other_clouds_are_read_and_written_the_same_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, environment: dict[str, str], endpoint_variable: str
) -> None:
    cloud = CloudStore("team-a")
    with stub_server(cloud) as endpoint:
        for name, value in (environment | {endpoint_variable: endpoint}).items():
            monkeypatch.setenv(name, value)
        there = open_bucket(Storage(work_uri=WORK))
        uri = f"{scheme}://team-a/work"
        there.publish_set(write_folder(tmp_path / "out"), uri, manifest=manifest)
        found = there.read_manifest(uri, SetManifest)
        assert found
        there.fetch_files(found.files, uri, tmp_path / "in")
        assert (tmp_path / "in/a.txt").read_text() == "a"
        assert there.write(f"{uri}/once", b"1", if_absent=True)
        assert not there.write(f"{uri}/once", b"2", if_absent=True)
        assert cloud.objects["work/once"] == b"1"
        there.delete(f"{uri}/once")
        assert there.read(f"{uri}/a.txt") == b"a"
        assert sorted(cloud.objects) == ["work/a.txt", "work/manifest.json", "work/sub/empty"]
        assert [file.path for file in there.list(uri)] == ["a.txt", "manifest.json", "sub/empty"]
        assert not there.exists(f"{uri}/none")


@CLOUDS
def test_other_clouds_refuse_in_sentences(
    monkeypatch: pytest.MonkeyPatch, scheme: str, environment: dict[str, str], endpoint_variable: str
) -> None:
    with stub_server(lambda _: Answer(status=403, body=s3_error("AuthenticationFailed"))) as endpoint:
        for name, value in (environment | {endpoint_variable: endpoint}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TrainerError, match="refused to read") as caught:
            open_bucket(Storage(work_uri=WORK)).read(f"{scheme}://team-a/x")
    assert caught.value.code is ExitCode.StorageDenied
    assert {"gs": "GOOGLE_SERVICE_ACCOUNT_KEY", "az": "AZURE_STORAGE_ACCOUNT_KEY"}[scheme] in str(caught.value.remedy)


def test_no_azure_account() -> None:
    with pytest.raises(TrainerError, match=r"no credentials to use az://team-a\.") as caught:
        open_bucket(Storage(work_uri=WORK)).read("az://team-a/x")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in (caught.value.remedy or "")


def test_a_key_of_a_config_map_is_read_through_the_links_of_its_mount(tmp_path: Path) -> None:
    """The kubelet mounts ..data -> ..<time>, and each key as a link into it."""
    mount = tmp_path / "rows"
    (mount / "..2026").mkdir(parents=True)
    (mount / "..2026/train.jsonl").write_text("{}")
    (mount / "..data").symlink_to("..2026")
    (mount / "train.jsonl").symlink_to("..data/train.jsonl")
    bucket = open_bucket(Storage(work_uri=WORK), config_map_root=tmp_path)
    assert bucket.read("configmap://rows/train.jsonl") == b"{}"
    assert bucket.exists("configmap://rows/train.jsonl")
    assert not bucket.exists("configmap://rows/other")
    assert not bucket.exists("configmap://none/train.jsonl")


def test_an_upload_whose_completion_was_not_heard_of_is_made_anew(
    remote: Callable[[str], Bucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that asks for the completion again is told by some stores that there is no such upload."""
    monkeypatch.setattr(storage, "RETRY_TIMEOUT", timedelta(seconds=5))
    monkeypatch.setattr(storage, "PART_BYTES", 4)
    completions = []

    def answer(request: Request) -> Answer:
        if "?uploads" in request.path:
            return Answer(status=200, body=b"<R><UploadId>one</UploadId></R>")
        if request.method == "DELETE":
            return Answer(status=204)
        if request.method == "PUT":
            return Answer(status=200, headers={"ETag": '"part"'})
        completions.append(request)
        if len(completions) == 1:
            return Answer(status=404, body=s3_error("NoSuchUpload"))
        return Answer(
            status=200, body=b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
        )

    (tmp_path / "file").write_bytes(b"0123456789")
    with stub_server(answer) as endpoint:
        remote(endpoint).upload(tmp_path / "file", f"{WORK}/file")
    assert len(completions) == 2
