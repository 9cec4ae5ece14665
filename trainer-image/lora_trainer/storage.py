"""All access to buckets and mounted volumes. Knows URIs, files and sets of files, not what they mean.

A set is a folder whose manifest is written after all its files. A folder without a manifest is not a set.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST
from lora_trainer.contract.manifest import FileEntry, parse_manifest
from lora_trainer.contract.run import CONFIG_MAP_MOUNT_ROOT, PVC_MOUNT_ROOT, Storage
from lora_trainer.contract.wire import WireModel
from lora_trainer.errors import TrainerError
from lora_trainer.storage_errors import explained, no_credentials

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

M = TypeVar("M", bound=WireModel)
T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Where the store finds credentials: in a Secret's variables, or in those of a cloud's workload identity."""
CONNECT_TIMEOUT = timedelta(seconds=5)
READ_TIMEOUT = timedelta(seconds=120)
"""For the next bytes of an answer, and for sending a part: the slowest link over which PARALLEL_FILES with
PARALLEL_PARTS each arrive in time has 1.1 MB/s."""
REQUEST_TIMEOUT = timedelta(hours=6)
"""For a whole request. The store's default of 30 s breaks on any large file behind a slow link."""
RETRY_TIMEOUT = timedelta(seconds=60)
MAX_RETRIES = 10_000
"""High enough that only RETRY_TIMEOUT counts: the client's pauses are random, and eight may end within a second."""
MAX_BACKOFF = timedelta(seconds=10)
REPEAT_PAUSE = timedelta(seconds=1)
PART_BYTES = 8 * 1024 * 1024
"""Size of a multipart upload's parts, of which S3 takes MAX_PARTS; those of larger files are larger."""
MAX_PARTS = 10_000
PARALLEL_PARTS = 4
LARGEST_COPY_BYTES = 5 * 2**30
"""Largest file that S3 copies on the server; larger ones are copied through this process."""
PARALLEL_FILES = 4
HASH_CHUNK_BYTES = 1024 * 1024
BUCKET_SCHEMES = ("s3", "gs", "az")
MOUNT_SCHEMES = ("pvc", "configmap")


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file below a folder of a bucket or volume."""

    path: str
    """Path below the folder that was listed."""
    size: int
    """Bytes."""
    etag: str | None
    """The store's own version mark of the contents."""


def repeated(request: Callable[P, R]) -> Callable[P, R]:
    """Repeat a request whose answer is lost. Only for requests that may be sent twice.

    The client itself repeats only what HTTP calls idempotent: not S3's deletion, which is a POST, nor a conditional
    write.
    """

    @functools.wraps(request)
    def until_answered(*args: P.args, **kwargs: P.kwargs) -> R:
        last_repetition = time.monotonic() + (RETRY_TIMEOUT - REPEAT_PAUSE).total_seconds()
        while True:
            try:
                return request(*args, **kwargs)
            except TrainerError as error:
                if error.code is not ExitCode.StorageUnavailable or time.monotonic() > last_repetition:
                    raise
            time.sleep(REPEAT_PAUSE.total_seconds())

    return until_answered


class Bucket:
    """Reads and writes s3://, gs:// and az:// URIs, and reads pvc:// and configmap:// URIs the same way.

    Every method raises TrainerError: StorageDenied where the user has to act, StorageUnavailable where trying again
    may help. Requests are retried for up to a minute before that. Safe to use from several threads.
    """

    def __init__(self, *, open_store: Callable[[str], ObjectStore], pvc_root: Path = PVC_MOUNT_ROOT) -> None:
        """`open_store` maps a root such as s3://team-a or pvc://claim to its store."""
        self._open_store = open_store
        self._pvc_root = pvc_root
        self._stores: dict[str, ObjectStore] = {}

    def read(self, uri: str, *, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of one file, or those of [start, end). Raises FileNotFoundError where there is none."""
        store, path = self._locate(uri)
        with explained(uri, "read"):
            if end is not None:
                return bytes(obstore.get_range(store, path, start=start, end=end))
            return bytes(obstore.get(store, path).bytes())

    def read_if_there(self, uri: str) -> bytes | None:
        """The bytes of one file, or None."""
        try:
            return self.read(uri)
        except FileNotFoundError:
            return None

    @repeated
    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> bool:
        """Write one file atomically. With `if_absent`, returns False and writes nothing where a file exists; it may be
        this request's own file, if only the answer was lost."""
        store, path = self._locate(uri)
        with explained(uri, "write"):
            try:
                obstore.put(store, path, data, mode="create" if if_absent else "overwrite")
            except AlreadyExistsError:
                if if_absent:
                    return False
                raise
        return True

    def exists(self, uri: str) -> bool:
        """Whether there is a file (not a folder) at `uri`."""
        return self.stat(uri) is not None

    def stat(self, uri: str) -> StoredFile | None:
        """The file at `uri`, with an empty path, or None."""
        try:
            store, path = self._locate(uri)
            if not path:
                return None
            with explained(uri, "read"):
                meta = obstore.head(store, path)
        except FileNotFoundError:
            return None
        return StoredFile(path="", size=meta["size"], etag=meta["e_tag"])

    def list(self, uri: str) -> list[StoredFile]:
        """Files below a folder, at any depth, sorted by path; empty where there are none."""
        try:
            store, prefix = self._locate(uri)
            with explained(uri, "list"):
                metas = [meta for batch in obstore.list(store, prefix or None) for meta in batch]
        except FileNotFoundError:
            return []
        skip = len(prefix) + 1 if prefix else 0
        files = (StoredFile(path=meta["path"][skip:], size=meta["size"], etag=meta["e_tag"]) for meta in metas)
        return sorted(files, key=lambda file: file.path)

    def download(self, uri: str, path: Path) -> None:
        """Write the file at `uri` to `path`, without holding it in memory. Raises FileNotFoundError."""
        store, key = self._locate(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with explained(uri, "read"):
            chunks = obstore.get(store, key).stream(min_chunk_size=HASH_CHUNK_BYTES)
            with path.open("wb") as sink:
                for chunk in chunks:
                    sink.write(chunk)

    @repeated
    def upload(self, path: Path, uri: str) -> None:
        """Write a local file to `uri`, in parts where it is large."""
        store, key = self._locate(uri)
        with explained(uri, "write"):
            part = _part_bytes(path.stat().st_size)
            obstore.put(store, key, path, chunk_size=part, max_concurrency=PARALLEL_PARTS)

    @repeated
    def copy(self, source: str, target: str) -> None:
        """Copy one file inside a bucket, without storing it in this pod. Raises FileNotFoundError."""
        store, path = self._locate(source)
        _, copied = self._locate(target)
        with explained(source, "read"):
            size = obstore.head(store, path)["size"]
        with explained(target, "write"):
            if size <= LARGEST_COPY_BYTES:
                obstore.copy(store, path, copied)
            else:
                part = _part_bytes(size)
                with obstore.open_writer(store, copied, buffer_size=part) as sink:
                    for chunk in obstore.get(store, path).stream(min_chunk_size=part):
                        sink.write(chunk)

    @repeated
    def delete(self, uri: str) -> None:
        """Delete one file. A missing file is no error."""
        store, path = self._locate(uri)
        try:
            with explained(uri, "delete"):
                obstore.delete(store, path)
        except FileNotFoundError:
            return

    @repeated
    def delete_prefix(self, uri: str) -> int:
        """Delete every file below a folder and return how many. Deletes manifests first, so that no set is left."""
        store, prefix = self._locate(uri)
        if not prefix:
            raise ValueError("a whole bucket is never deleted")
        paths = [f"{prefix}/{file.path}" for file in self.list(uri)]
        manifests = [path for path in paths if path.endswith(f"/{MANIFEST}")]
        others = [path for path in paths if not path.endswith(f"/{MANIFEST}")]
        with explained(uri, "delete"):
            for batch in (manifests, others):
                if batch:
                    obstore.delete(store, batch)
        return len(paths)

    def download_folder(self, uri: str, folder: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> Path:
        """A local folder with the wanted files of `uri`. Files of a mounted volume are not copied."""
        if uri.startswith("pvc://"):
            return pvc_path(uri, root=self._pvc_root)
        names = [file.path for file in self.list(uri) if wanted(file.path)]
        in_parallel(lambda name: self.download(f"{uri.rstrip('/')}/{name}", folder / name), names)
        return folder

    def upload_files(self, folder: Path, uri: str) -> tuple[FileEntry, ...]:
        """Upload every file below `folder` but a manifest, and return the entries for one, sorted by path."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST]

        def send(name: str) -> FileEntry:
            entry = FileEntry(path=name, size=(folder / name).stat().st_size, sha256=file_sha256(folder / name))
            self.upload(folder / name, f"{uri.rstrip('/')}/{name}")
            return entry

        return tuple(in_parallel(send, names))

    def publish_set(self, folder: Path, uri: str, *, manifest: Callable[[tuple[FileEntry, ...]], WireModel]) -> bytes:
        """Upload a folder as a set: delete the old manifest, upload the files, then write the manifest of them.

        Returns the manifest's bytes as they are in the bucket.
        """
        manifest_uri = f"{uri.rstrip('/')}/{MANIFEST}"
        self.delete(manifest_uri)
        data = manifest(self.upload_files(folder, uri)).model_dump_json(by_alias=True, exclude_none=True).encode()
        self.write(manifest_uri, data)
        return data

    def read_manifest(self, uri: str, kind: type[M]) -> M | None:
        """The manifest of the set at `uri`, or None where the set is incomplete or missing."""
        return parse_manifest(kind, self.read_if_there(f"{uri.rstrip('/')}/{MANIFEST}") or b"")

    def fetch_files(self, entries: Sequence[FileEntry], uri: str, folder: Path) -> None:
        """Download the files of a manifest and compare size and sha256 of every one."""

        def fetch(entry: FileEntry) -> None:
            path = folder / _inside(entry.path)
            try:
                self.download(f"{uri.rstrip('/')}/{entry.path}", path)
            except FileNotFoundError:
                raise _damaged(uri, f"{entry.path} is missing") from None
            if path.stat().st_size != entry.size:
                raise _damaged(uri, f"{entry.path} has {path.stat().st_size} bytes instead of {entry.size}")
            if file_sha256(path) != entry.sha256:
                raise _damaged(uri, f"the sha256 of {entry.path} is not the manifest's")

        in_parallel(fetch, entries)

    def _locate(self, uri: str) -> tuple[ObjectStore, str]:
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme not in BUCKET_SCHEMES + MOUNT_SCHEMES:
            raise ValueError(f"not the URI of a bucket or mount: {uri}")
        name, _, path = rest.partition("/")
        root = f"{scheme}://{name}"
        if root not in self._stores:
            self._stores[root] = self._open_store(root)
        return self._stores[root], _inside(path)


def open_bucket(
    storage: Storage, *, pvc_root: Path = PVC_MOUNT_ROOT, config_map_root: Path = CONFIG_MAP_MOUNT_ROOT
) -> Bucket:
    """The Bucket of one run. Credentials come from the environment, endpoint and region of s3:// from the run file."""

    def open_store(root: str) -> ObjectStore:
        scheme, _, name = root.partition("://")
        match scheme:
            case "pvc":
                return _local_store(pvc_root / name)
            case "configmap":
                return _local_store(config_map_root / name)
            case "gs":
                client = _client(os.environ.get("GOOGLE_BASE_URL"))
                return GCSStore(name, client_options=client, retry_config=_retries())
            case "az":
                return _azure_store(name)
            case _:
                return _s3_store(name, storage)

    return Bucket(open_store=open_store, pvc_root=pvc_root)


def _s3_store(name: str, storage: Storage) -> S3Store:
    config: S3Config = {"region": storage.region or os.environ.get("AWS_REGION", "us-east-1")}
    if storage.endpoint:
        if not any(name in os.environ for name in CREDENTIAL_VARIABLES):
            # The client would ask the cloud's metadata server for a minute, which has no credentials for this endpoint.
            raise no_credentials(f"s3://{name}", action="use")
        # Path style, because a custom endpoint seldom has a DNS name per bucket.
        config |= {"endpoint": storage.endpoint, "virtual_hosted_style_request": False}
    return S3Store(name, config=config, client_options=_client(storage.endpoint), retry_config=_retries())


def _azure_store(name: str) -> AzureStore:
    if not os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise no_credentials(f"az://{name}", action="use")
    return AzureStore(name, client_options=_client(os.environ.get("AZURE_ENDPOINT")), retry_config=_retries())


def _client(endpoint: str | None) -> ClientConfig:
    client: ClientConfig = {
        "allow_http": (endpoint or "").startswith("http://"),
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
    }
    if authorities := os.environ.get("SSL_CERT_FILE"):
        client["root_certificate"] = Path(authorities).read_bytes()
    return client


def _retries() -> RetryConfig:
    return {"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT, "backoff": {"max_backoff": MAX_BACKOFF}}


def _part_bytes(size: int) -> int:
    """Bytes of each part of a file of `size` bytes."""
    return max(PART_BYTES, -(-size // MAX_PARTS))


def _local_store(folder: Path) -> LocalStore:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.name!r} is not mounted in this pod")
    return LocalStore(folder)


def pvc_path(uri: str, *, root: Path = PVC_MOUNT_ROOT) -> Path:
    """Where pvc://claim/path is mounted in this pod."""
    return root / _inside(uri.removeprefix("pvc://"))


def _inside(path: str) -> str:
    """A relative path without empty parts. Raises ConfigInvalid for a path that leaves its folder."""
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    if ".." in parts:
        raise TrainerError(ExitCode.ConfigInvalid, f"The path {path!r} contains '..'.", "Write the path without '..'.")
    return "/".join(parts)


def in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Results of `work` in the order of `items`, a few at a time; the first error is raised."""
    with ThreadPoolExecutor(max_workers=PARALLEL_FILES) as pool:
        return list(pool.map(work, items))


def file_sha256(path: Path) -> str:
    """sha256 of a file's contents, in hex."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _damaged(uri: str, what: str) -> TrainerError:
    return TrainerError(
        ExitCode.StorageUnavailable,
        f"The files at {uri} do not match their manifest: {what}.",
        "If this happens again, delete that folder; it is then recreated.",
    )
