"""prepare with real parts: SmolLM2's tokenizer, Spider's rows and an S3 server, in the trainer's own environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import artifact_uri, prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.outcome import Outcome, PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.prepared import EVAL_ROWS, TRAIN_ROWS, read_prepared
from lora_trainer.publishing.trained_run import remember
from lora_trainer.storage import open_bucket

from tests.support.demo_assets import DemoAssets
from tests.support.model_hub import COMMIT, NAME, Hub
from tests.support.object_store import ObjectStore
from tests.support.packages import UV
from tests.support.published import publish_adapter
from tests.support.runs import run_file
from tests.support.stage_process import run_stage
from tests.support.stub_server import stub_server
from tests.support.tiny_model import write_tiny_model

REPOSITORY = Path(__file__).parents[2]
WITHOUT_TORCH = """
import sys
from lora_trainer.__main__ import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules, "prepare imported torch"
assert "transformers" not in sys.modules, "prepare imported transformers"
sys.exit(code)
"""


def prepare(
    run: RunFile, store: ObjectStore, folder: Path, *, python: str = sys.executable, **environment: str
) -> tuple[int, Outcome, str]:
    """Run the stage as its pod does: exit code, termination message and log."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run.wire()))
    arguments = ("prepare", "--run", str(folder / "run.json"), "--scratch", str(folder / "scratch"))
    entry = ("-c", WITHOUT_TORCH)
    return run_stage(*arguments, folder=folder, store=store, environment=environment, python=python, entry=entry)


@pytest.fixture(scope="module")
def prepared(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFile, PrepareResult]:
    run = run_file(endpoint=store.endpoint, identity={"name": "whole"}, evaluation={"maxRows": 40})
    code, outcome, log = prepare(run, store, tmp_path_factory.mktemp("whole"))
    assert code == ExitCode.Succeeded, log
    assert isinstance(outcome.result, PrepareResult)
    return run, outcome.result


@pytest.fixture(scope="module")
def prepared_folder(
    prepared: tuple[RunFile, PrepareResult], store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The published set, fetched and compared as train does it."""
    run, result = prepared
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        bucket = open_bucket(run.storage)
        manifest = bucket.read_manifest(prepared_uri(run), SetManifest)
        assert manifest
        assert manifest.fingerprint == result.run_digest
        bucket.fetch_files(manifest.files, prepared_uri(run), folder)
    return folder


@pytest.fixture(scope="module")
def slim_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An interpreter with what the slim image has: requirements/prepare.txt and nothing else."""
    folder = tmp_path_factory.mktemp("slim")
    python = str(folder / "bin/python")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    requirements = REPOSITORY / "requirements/prepare.txt"
    command = [UV, "pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes", "-r", requirements]
    subprocess.run(command, check=True)
    yield python
    shutil.rmtree(folder)


def test_the_slim_image_prepares_the_same_rows(
    prepared: tuple[RunFile, PrepareResult], store: ObjectStore, tmp_path: Path, slim_python: str
) -> None:
    run, whole = prepared
    source = str(REPOSITORY / "trainer-image")
    code, outcome, log = prepare(run, store, tmp_path, python=slim_python, PYTHONPATH=source)
    assert code == ExitCode.Succeeded, log
    assert outcome.result == whole


def test_figures_of_the_demo(prepared: tuple[RunFile, PrepareResult]) -> None:
    _, result = prepared
    assert (result.dataset.rows, result.dataset.kept, result.dataset.held_out) == (900, 860, 40)
    assert result.model.parameters == 134_515_008
    assert result.model.architecture == "LlamaForCausalLM"
    assert 0.1 < result.dataset.trained_token_share < 0.3
    assert result.estimate.memory_gib < 3


def test_rows_are_what_transformers_renders(assets: DemoAssets, prepared_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets.model)
    messages = [json.loads(line)["messages"] for line in assets.train.read_text().splitlines()]
    expected = [tuple(tokenizer.apply_chat_template(chat, return_dict=False)) for chat in messages]
    files = (TRAIN_ROWS, EVAL_ROWS)
    found = [tuple(ids) for file in files for ids in pq.read_table(prepared_folder / file)["input_ids"].to_pylist()]
    assert sorted(found) == sorted(expected)


def test_exactly_the_answers_and_their_end_are_trained(assets: DemoAssets, prepared_folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(assets.model / "tokenizer.json"))
    answers = {json.loads(line)["messages"][-1]["content"] for line in assets.train.read_text().splitlines()}
    prepared = read_prepared(prepared_folder)
    for row in pq.read_table(prepared_folder / EVAL_ROWS).to_pylist():
        pairs = zip(row["input_ids"], row["completion_mask"], strict=True)
        trained = [token for token, counts in pairs if counts]
        assert trained[-1] == prepared.eos_token_id == 2
        assert tokenizer.decode(trained[:-1]) == row["completion"]
        assert row["completion"] in answers


def test_a_second_run_gives_the_same_digest(
    prepared: tuple[RunFile, PrepareResult], store: ObjectStore, tmp_path: Path
) -> None:
    run, first = prepared
    again = run.model_copy(update={"identity": run.identity.model_copy(update={"uid": "another"})})
    _, outcome, _ = prepare(again, store, tmp_path)
    assert isinstance(outcome.result, PrepareResult)
    assert outcome.result.run_digest == first.run_digest


def test_a_restored_run_whose_branch_has_moved_reuses_its_adapter(credentials: ObjectStore, tmp_path: Path) -> None:
    hub = Hub(write_tiny_model(tmp_path / "hub"))
    run = run_file(endpoint=credentials.endpoint, model={"name": NAME}, output={"uri": "s3://team-a/restored"})
    bucket = open_bucket(run.storage)
    with stub_server(hub) as endpoint:
        on_hub = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        _, first, log = prepare(run, credentials, tmp_path / "first", **on_hub)
        assert isinstance(first.result, PrepareResult), log
        publish_adapter(bucket, run, first.result)
        remember(run, first.result, bucket)
        hub.commits.append("f" * 40)
        again = run.model_copy(update={"identity": run.identity.model_copy(update={"uid": "another"})})
        code, outcome, log = prepare(again, credentials, tmp_path / "again", **on_hub)
    assert code == ExitCode.Succeeded, log
    assert isinstance(outcome.result, PrepareResult)
    assert outcome.result.artifact
    assert outcome.result.artifact.uri == artifact_uri(run, first.result.run_digest)
    assert (outcome.result.model.revision, outcome.result.model.newer_revision) == (COMMIT, "f" * 40)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-value"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "unknown-key"}, "refused"),
    ],
)
def test_wrong_credentials(store: ObjectStore, tmp_path: Path, environment: dict[str, str], words: str) -> None:
    started = time.monotonic()
    code, outcome, log = prepare(run_file(endpoint=store.endpoint), store, tmp_path, **environment)
    assert code == ExitCode.StorageDenied
    assert words in outcome.message
    assert "storage Secret" in (outcome.remedy or "")
    for secret in ("wrong-secret-value", store.secret_key):
        assert secret not in log + outcome.model_dump_json()
    assert time.monotonic() - started < 30, "said at once, not after retries"


def test_a_bucket_that_is_not_there(store: ObjectStore, tmp_path: Path) -> None:
    run = run_file(endpoint=store.endpoint, output={"uri": "s3://no-such-bucket/adapters"})
    code, outcome, _ = prepare(run, store, tmp_path)
    assert code == ExitCode.StorageDenied
    assert "bucket 'no-such-bucket' does not exist" in outcome.message


def test_a_template_of_another_model(store: ObjectStore, tmp_path: Path) -> None:
    template = "{% for m in messages %}<|start_header_id|>{{ m.role }}\n{{ m.content }}<|eot_id|>{% endfor %}"
    run = run_file(endpoint=store.endpoint, dataset={"chatTemplate": {"jinja": template}})
    code, outcome, _ = prepare(run, store, tmp_path)
    assert code == ExitCode.ChatTemplateInvalid
    assert "<|eot_id|>, <|start_header_id|>" in outcome.message
