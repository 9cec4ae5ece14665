"""Files of bfloat16 tensors, written and read without torch: https://github.com/huggingface/safetensors#format."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

Tensor = tuple[tuple[int, ...], bytes]
"""Shape and data."""
METADATA = "__metadata__"


def encoded(tensors: Mapping[str, Tensor]) -> bytes:
    """The file with these tensors, in their order."""
    header: dict[str, object] = {METADATA: {"format": "pt"}}
    end = 0
    for name, (shape, data) in tensors.items():
        start, end = end, end + len(data)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def decoded(file: bytes) -> dict[str, Tensor]:
    """The tensors of the file."""
    (length,) = struct.unpack_from("<Q", file)
    begin = 8 + length
    tensors: dict[str, Tensor] = {}
    for name, described in json.loads(file[8:begin]).items():
        if name != METADATA:
            assert described["dtype"] == "BF16", f"{name} is {described['dtype']}"
            first, last = described["data_offsets"]
            tensors[name] = tuple(described["shape"]), file[begin + first : begin + last]
    return tensors
