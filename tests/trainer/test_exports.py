"""Other formats with real parts: SmolLM2 merged, converted, quantised and served by llama.cpp's own server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import MANIFEST, latest_uri
from lora_trainer.contract.manifest import ArtifactManifest, Exported
from lora_trainer.contract.outcome import Artifact, Outcome
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.output import GgufSpec
from lora_trainer.errors import TrainerError
from lora_trainer.prepare import prepare
from lora_trainer.publishing.merging import require_same
from lora_trainer.telemetry import ProgressServer
from safetensors.torch import load_file

from tests.ports import free_port
from tests.support.attempts import Attempt
from tests.support.fork_server import Kind
from tests.support.runs import BUCKET
from tests.support.trainer_process import complete
from tests.trainer.conftest import Trained

MAGIC = b"GGUF"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an export process ended."""

    code: int
    last_line: str
    folder: Path


@pytest.fixture
def export(trained: Trained, first_layers: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Runs `python -m lora_trainer export` on the adapter of the run `trained`."""
    adapter = tmp_path / "adapter"
    small = trained.small
    manifest = small.bucket.read_manifest(small.artifact, ArtifactManifest)
    assert manifest
    small.bucket.fetch_files(manifest.files, small.artifact, adapter)

    def start(formats: str, *, tokenizer: Callable[[dict], dict] = lambda tokenizer: tokenizer) -> Ended:
        path = adapter / "tokenizer.json"
        path.write_text(json.dumps(tokenizer(json.loads(path.read_text()))))
        folder = tmp_path / "exports"
        arguments = ["export", "--formats", formats, "--folder", folder, "--adapter", adapter, "--base", first_layers]
        done = complete(arguments, kind=Kind.PLAIN)
        return Ended(code=done.returncode, last_line=done.stdout.strip().rpartition("\n")[2], folder=folder)

    return start


def as_published(tokenizer: dict) -> dict:
    """SmolLM2's own tokenizer.json. The tests' copy was made from a GGUF file and claims to be of Llama's kind."""
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    model = tokenizer["model"] | {"byte_fallback": False}
    return tokenizer | {"model": model, "decoder": decoder, "normalizer": None}


def bits_per_weight(path: Path) -> float:
    """Of the layers' matrices in a GGUF file: the table of tokens is the same for several methods."""
    matrices = [
        tensor for tensor in GGUFReader(path).tensors if re.match(r"blk\.\d+\.(attn|ffn)_(?!norm)", tensor.name)
    ]
    return 8 * sum(tensor.n_bytes for tensor in matrices) / sum(tensor.n_elements for tensor in matrices)


def test_a_merged_model_and_its_gguf_files_are_the_model_that_was_trained(export: Callable[..., Ended]) -> None:
    ended = export("merged16bit,gguf/q8_0,gguf/q4_k_m", tokenizer=as_published)
    assert ended.code == ExitCode.Succeeded, ended.last_line
    exported = Exported.model_validate_json(ended.last_line)
    assert exported.formats == ("merged16bit", "gguf/q8_0", "gguf/q4_k_m")
    assert 0 < exported.merged_drift < 0.5
    merged = load_file(ended.folder / "merged16bit/model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert not any("lora" in name for name in merged)
    assert (ended.folder / "merged16bit/tokenizer.json").exists()
    assert (ended.folder / "merged16bit/chat_template.jinja").exists()
    files = [ended.folder / f"gguf/model-{method}.gguf" for method in ("q8_0", "q4_k_m")]
    assert {path.open("rb").read(4) for path in files} == {MAGIC}
    eight, four = map(bits_per_weight, files)
    assert eight == 8.5, "a byte a weight, and two for the scale of 32"
    assert four < 0.8 * eight
    left = {path.relative_to(ended.folder).parts[0] for path in ended.folder.rglob("*")}
    assert left == {"merged16bit", "gguf"}


def test_a_gguf_file_with_another_tokenizer_is_refused(export: Callable[..., Ended]) -> None:
    ended = export("gguf/q8_0")
    assert ended.code == ExitCode.ExportFailed
    outcome = Outcome.model_validate_json(ended.last_line)
    assert "/tokenize" in outcome.message or "different tokens" in outcome.message
    assert outcome.remedy


def test_a_merge_that_is_not_the_adapter_is_refused() -> None:
    plain, tuned = torch.zeros(4, 8), torch.ones(4, 8)
    assert require_same(tuned * 0.9, tuned=tuned, plain=plain) == pytest.approx(0.1)
    for wrong in (plain, 2 * tuned, tuned * torch.nan):
        with pytest.raises(TrainerError, match="does not match the trained model") as ended:
            require_same(wrong, tuned=tuned, plain=plain)
        assert ended.value.code == ExitCode.ExportFailed


def exporting(run: RunFile, *exports: str) -> RunFile:
    """The run with other formats and an output folder of its own. Neither changes its digest."""
    output = {"uri": f"s3://{BUCKET}/adapters/exported", "exports": exports, "gguf": GgufSpec()}
    return run.model_copy(update={"output": run.output.model_copy(update=output)})


def test_a_run_publishes_the_merged_model_beside_the_adapter(trained: Trained, tmp_path: Path) -> None:
    small, run = trained.small, exporting(trained.small.run, "Merged16Bit")
    with Attempt(run, folder=tmp_path / "attempt", port=free_port()) as attempt:
        ended = attempt.wait()
    artifact = ended.result.artifact
    assert artifact.formats == ("adapter", "merged16bit")
    assert Artifact.model_validate_json(small.bucket.read(latest_uri(run))) == artifact
    data = small.bucket.read(f"{artifact.uri}/{MANIFEST}")
    manifest = ArtifactManifest.model_validate_json(data)
    assert manifest.artifact(artifact.uri, data) == artifact
    small.bucket.fetch_files(manifest.files, artifact.uri, tmp_path / "fetched")
    assert (tmp_path / "fetched/merged16bit/model.safetensors").exists()
    assert (tmp_path / "fetched/adapter_model.safetensors").exists()

    def prepared_again(again: RunFile) -> Artifact | None:
        with ProgressServer(port=0) as progress:
            return prepare(again, bucket=small.bucket, progress=progress, scratch=tmp_path / "again").artifact

    assert prepared_again(run) == artifact
    assert prepared_again(exporting(run, "GGUF")) is None, "there is no GGUF file yet"
