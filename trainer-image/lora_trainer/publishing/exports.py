"""`python -m lora_trainer export`: writes an adapter in the formats that other programs load, and verifies each one.

Runs in its own process, on an adapter's local folder; uploads nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.manifest import Exported
from lora_trainer.contract.spec.output import GGUF, MERGED_16BIT
from lora_trainer.errors import TrainerError
from lora_trainer.publishing import llama_cpp
from lora_trainer.publishing.merging import Merged, merge

FILE_TYPES: dict[str, int] = {"q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q4_k_m": 15}
"""llama.h's llama_ftype of each method but f16, which the converter writes."""
NEW_TOKENS = 16
CANDIDATES = 10
"""The merged model's next token must be among so many most probable ones of the quantised model."""


def export(adapter: Path, *, base: Path, formats: Sequence[str], folder: Path) -> Exported:
    """Write the formats (as OutputSpec.formats names them) below `folder`. Raises TrainerError ExportFailed."""
    methods = [method for kind, _, method in (name.partition("/") for name in formats) if kind == GGUF]
    try:
        with ExitStack() as stack:
            work = Path(stack.enter_context(TemporaryDirectory(dir=folder.parent, prefix="export-")))
            # Named so also where it is not kept: the converter writes the folder's name into the file.
            model = (folder if MERGED_16BIT in formats else work) / MERGED_16BIT
            merged = merge(adapter, base=base, folder=model)
            if methods:
                _write_gguf(merged, model=model, methods=methods, folder=folder / GGUF, work=work)
    except torch.OutOfMemoryError:
        raise TrainerError(
            ExitCode.ExportFailed,
            f"The 16-bit model that {formats[0]} needs does not fit the GPU's memory.",
            "Choose a class whose GPU has two bytes of memory per parameter, or remove output.exports.",
        ) from None
    return Exported(formats=tuple(formats), merged_drift=round(merged.drift, 4))


def _write_gguf(merged: Merged, *, model: Path, methods: Sequence[str], folder: Path, work: Path) -> None:
    folder.mkdir(parents=True)
    whole = work / "model-f16.gguf"
    llama_cpp.convert(model, whole)
    for method in methods:
        target = folder / f"model-{method}.gguf"
        if method == "f16":
            shutil.copyfile(whole, target)
        else:
            llama_cpp.quantize(whole, target, file_type=FILE_TYPES[method])
        prove(target, merged, log=work / f"server-{method}.log")


def prove(file: Path, merged: Merged, *, log: Path) -> None:
    """Load a GGUF file in llama.cpp's own server and compare it with the merged model. Raises ExportFailed."""
    context = len(merged.probe_ids) + 2 * NEW_TOKENS
    with llama_cpp.server(file, context=context, log=log) as server:
        if server.tokens(merged.probe) != merged.probe_ids:
            raise _differs(file, "it splits a held-out prompt into different tokens than the model's own tokenizer")
        generated, candidates = server.generate(merged.probe_ids, tokens=NEW_TOKENS, candidates=CANDIDATES)
    if not generated:
        raise _differs(file, "it generates nothing after a held-out prompt")
    if merged.next_token not in candidates:
        raise _differs(file, "the merged model's next token is not among its ten most probable tokens")


def _differs(file: Path, how: str) -> TrainerError:
    return TrainerError(
        ExitCode.ExportFailed,
        f"{file.name} does not match the trained model: {how}.",
        "Remove GGUF from output.exports, or choose quantizationMethods with more bits. The adapter itself works.",
    )
