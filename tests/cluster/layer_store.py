"""Reads where buildah keeps an image's layers unpacked. Only reads; buildah alone writes to its store.

The layout is that of containers/storage with the overlay driver: overlay-images/images.json names an image's top layer,
overlay-layers/layers.json each layer's parent and digest, and overlay/<layer>/diff holds its files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One unpacked layer: the digest and size of its tar, and the folder with its files, whiteouts included."""

    digest: str
    size: int
    folder: Path


def layers(store: Path, *, image_id: str) -> list[Layer]:
    """The image's layers, lowest first."""
    return chain(
        images=json.loads((store / "overlay-images/images.json").read_text()),
        records=json.loads((store / "overlay-layers/layers.json").read_text()),
        image_id=image_id,
        store=store,
    )


def chain(
    *, images: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], image_id: str, store: Path
) -> list[Layer]:
    """The image's layers, lowest first, from the parsed files. Pure.

    Raises KeyError when the image or one of its layers is not in the store.
    """
    tops = {f"sha256:{image['id']}": image.get("layer", "") for image in images}
    by_id = {record["id"]: record for record in records}
    found: list[Layer] = []
    layer_id = tops[image_id]
    while layer_id:
        record = by_id[layer_id]
        folder = store / "overlay" / layer_id / "diff"
        found.append(Layer(digest=record["diff-digest"], size=record["diff-size"], folder=folder))
        layer_id = record.get("parent", "")
    return found[::-1]
