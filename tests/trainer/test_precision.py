"""model.quantization: Auto with real parts: what prepare decides holds for all that follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.layout import prepared_uri
from lora_trainer.contract.manifest import SetManifest
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.errors import TrainerError
from lora_trainer.prepared import read_prepared
from lora_trainer.training.start import as_prepared

from tests.support.object_store import ObjectStore
from tests.support.runs import WHOLE_MODEL
from tests.support.trained import small_run

WHOLE = {"name": WHOLE_MODEL}
"""The one that needs more than one of these sizes in 16 bits, and not more than the other."""


@pytest.mark.parametrize(("gib", "decided"), [(16, Quantization.NONE), (2.8, Quantization.NF4)])
def test_a_run_is_trained_as_it_was_prepared(
    credentials: ObjectStore, tmp_path: Path, gib: float, decided: Quantization
) -> None:
    room = {"kind": "CPU", "memoryGiB": gib}
    auto, named = (
        small_run(credentials, tmp_path / name, name=name, model=WHOLE | {"quantization": asked}, accelerator=room)
        for name, asked in (("auto", "Auto"), ("named", decided))
    )
    uri = prepared_uri(auto.run)
    found = auto.bucket.read_manifest(uri, SetManifest)
    assert found
    auto.bucket.fetch_files(found.files, uri, tmp_path / "fetched")
    prepared = read_prepared(tmp_path / "fetched").result
    assert as_prepared(auto.run, prepared).model.quantization is decided
    assert auto.digest == named.digest, "who names the same gets the same adapter"
    another = next(each for each in (Quantization.NF4, Quantization.NONE) if each is not decided)
    with pytest.raises(TrainerError, match="is not the one that the run was prepared with") as changed:
        as_prepared(auto.run.quantized(another), prepared)
    assert changed.value.code is ExitCode.ConfigInvalid
