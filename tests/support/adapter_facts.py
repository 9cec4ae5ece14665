"""What a run file's settings do to the real model: `python -m tests.support.adapter_facts RUNS MODEL FACTS`.

RUNS is a JSON object of run files by name, MODEL a model's folder; FACTS is written as a JSON object of what was seen,
by the same names. A process of its own, because Unsloth patches the libraries of the process it is imported into.
Models are loaded through the trainer's own `load` and `add_adapter`, once for every distinct way of loading.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.contract.outcome import Loader
from lora_trainer.contract.run import AcceleratorKind, RunFile
from lora_trainer.libraries import environment
from lora_trainer.model import add_adapter, load, load_arguments

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WITH_BIAS = "bias"
"""Runs whose name begins so load a copy of the model with bias vectors, which Llama models have none of."""


def main(runs: Path, model: Path, facts: Path) -> None:
    """Look at every run."""
    parsed = {name: RunFile.model_validate(run) for name, run in json.loads(runs.read_text()).items()}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environment(kind=AcceleratorKind.CPU, scratch=Path(scratch)))
        folders = {False: model, True: with_bias(model, Path(scratch) / "with-bias")}
        groups: dict[str, list[str]] = {}
        for name, run in parsed.items():
            arguments = load_arguments(run, sequence_tokens=run.model.max_seq_length)
            way = json.dumps([name.startswith(WITH_BIAS), arguments, run.model.dtype], sort_keys=True)
            groups.setdefault(way, []).append(name)
        for names in groups.values():
            run = parsed[names[0]]
            base, tokenizer = load(
                run,
                folder=folders[names[0].startswith(WITH_BIAS)],
                dtype=run.model.dtype or "float32",
                loader=Loader.FAST_LANGUAGE_MODEL,
                sequence_tokens=run.model.max_seq_length,
            )
            for name in names:
                adapted = add_adapter(base, parsed[name])
                found[name] = look(adapted, base, tokenizer)
                base = adapted.unload()
    facts.write_text(json.dumps(found))


def with_bias(model: Path, folder: Path) -> Path:
    """A copy whose attention has bias vectors; they are not in the weights, so transformers makes new ones."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").unlink()
    shutil.copy(model / "config.json", folder / "config.json")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    return folder


def look(adapted: PeftModel, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What can be seen of the settings."""
    inner: Any = adapted.get_base_model()
    layer = inner.model.layers[0]
    named = {name: module for name, module in layer.named_modules() if hasattr(module, "lora_A")}
    (path, first) = next(iter(named.items()))
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    biases = [name for name in trained if name.endswith(".bias")]
    matrix = first.lora_A["default"].weight
    return {
        "modules": sorted(name.rpartition(".")[2] for name in named),
        "first": path,
        "shape": list(matrix.shape),
        "seen_weights": [round(value, 6) for value in matrix[0, :8].float().tolist()],
        "scaling": first.scaling["default"],
        "dropout": getattr(first.lora_dropout["default"], "p", 0.0),
        "trainable": sum(parameter.numel() for parameter in trained.values()),
        "trained_biases": sorted({name.split(".")[-2] for name in biases}),
        "bias_count": len(biases),
        "linear": type(first.base_layer).__name__,
        "weight_dtype": str(first.base_layer.weight.dtype),
        "compute_dtype": str(base.dtype),
        "head": type(inner.lm_head).__name__,
        "checkpointing": base.is_gradient_checkpointing,
        "max_seq_length": adapted.max_seq_length,
        "tokenizer_length": tokenizer.model_max_length,
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
