"""SmolLM2 cut after its first layers: real weights, tokenizer and shapes, for tests that ask no quality of a model.

On two processors the whole model trains 80 tokens a second, and in 4 bits generates one or two. These layers do both
several times as fast, and everything around a model is the same.
"""

from __future__ import annotations

import json
import re
import shutil
from array import array
from pathlib import Path

from tests.support.safetensors_file import decoded, encoded

LAYERS = 4
WEIGHTS = "model.safetensors"
LAST_NORM = "model.norm.weight"
HALVED = 2
"""How often the last norm is halved. What the missing layers would have made of it leaves the first ones large: with it
as it is the model is sure of wrong tokens, and a run whose loss is above chance counts as diverging."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def write_first_layers(model: Path, target: Path, *, layers: int = LAYERS) -> Path:
    """Write the model folder `target`: that of a Llama in one file of bfloat16, without the layers after the first."""
    target.mkdir(parents=True)
    for source in model.iterdir():
        if source.name == WEIGHTS:
            (target / WEIGHTS).write_bytes(_first_tensors(source.read_bytes(), layers=layers))
        elif source.name == "config.json":
            config = json.loads(source.read_text()) | {"num_hidden_layers": layers}
            (target / source.name).write_text(json.dumps(config))
        else:
            shutil.copy(source, target)
    return target


def _first_tensors(file: bytes, *, layers: int) -> bytes:
    """The file without the tensors of later layers."""
    return encoded(
        {
            name: (shape, _halved(data) if name == LAST_NORM else data)
            for name, (shape, data) in decoded(file).items()
            if not (found := _LAYER.match(name)) or int(found[1]) < layers
        }
    )


def _halved(data: bytes) -> bytes:
    """Numbers in bfloat16, HALVED times: its exponent begins at bit 7."""
    numbers = array("H", data)
    assert all((number >> 7 & 0xFF) > HALVED for number in numbers), "none is as small as that"
    return array("H", (number - (HALVED << 7) for number in numbers)).tobytes()
