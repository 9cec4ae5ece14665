"""SmolLM2 cut after its first layers: real weights, tokenizer and shapes, for tests that ask no quality of a model.

On two processors the whole model trains 80 tokens a second, and in 4 bits generates one or two. These layers do both
several times as fast, and everything around a model is the same.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

LAYERS = 4
WEIGHTS = "model.safetensors"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def write_first_layers(model: Path, target: Path, *, layers: int = LAYERS) -> Path:
    """Write the model folder `target`: that of a Llama in one file of weights, without the layers after the first."""
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


def _first_tensors(safetensors: bytes, *, layers: int) -> bytes:
    """The file without the tensors of later layers. Its format: https://github.com/huggingface/safetensors#format."""
    (length,) = struct.unpack_from("<Q", safetensors)
    data = memoryview(safetensors)[8 + length :]
    header: dict[str, Any] = {}
    kept: list[memoryview] = []
    end = 0
    for name, tensor in json.loads(safetensors[8 : 8 + length]).items():
        found = _LAYER.match(name)
        if found and int(found[1]) >= layers:
            continue
        header[name] = tensor
        if "data_offsets" in tensor:
            first, last = tensor["data_offsets"]
            kept.append(data[first:last])
            start, end = end, end + last - first
            header[name] = tensor | {"data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data is aligned
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(kept)
