"""Reads names and shapes of tensors from the headers of safetensors files. Reads no weights."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from math import prod

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError

LARGEST_HEADER = 100 * 2**20
"""The safetensors format's own limit."""
LAYER_WEIGHT = re.compile(r"\.layers\.\d+\..*?(\w+)\.weight$")
EMBEDDING = re.compile(r"(^|\.)embed_tokens\.weight$")

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its name."""


def read_shapes(read: Callable[[int, int], bytes], *, name: str, size: int) -> Shapes:
    """Shapes in the safetensors file `name` of `size` bytes: 8 bytes of length, then JSON, then the data.

    Raises ModelUnsupported for a file that is cut off or is no safetensors file.
    """
    try:
        (length,) = struct.unpack("<Q", read(0, 8))
        if length > LARGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        tensors = {key: tensor for key, tensor in json.loads(read(8, 8 + length)).items() if key != "__metadata__"}
        end = 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values())
        shapes = {key: tuple(tensor["shape"]) for key, tensor in tensors.items()}
    except (struct.error, ValueError, KeyError, TypeError):
        raise _damaged(name, "its header cannot be read") from None
    if size != end:
        raise _damaged(name, f"it has {size} bytes instead of {end}")
    return shapes


def parameters(shapes: Shapes) -> int:
    """Number of parameters."""
    return sum(prod(shape) for shape in shapes.values())


def layer_modules(shapes: Shapes) -> frozenset[str]:
    """Names of the linear modules in the decoder layers."""
    found = (LAYER_WEIGHT.search(name) for name, shape in shapes.items() if len(shape) == 2)
    return frozenset(match[1] for match in found if match)


def embedding_rows(shapes: Shapes) -> int | None:
    """Tokens that the model knows, None where the embedding has another name."""
    return next((shape[0] for name, shape in shapes.items() if EMBEDDING.search(name)), None)


def _damaged(name: str, what: str) -> TrainerError:
    return TrainerError(
        ExitCode.ModelUnsupported,
        f"The file {name} of the model is damaged: {what}.",
        "Upload the model again.",
    )
