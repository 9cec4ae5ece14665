"""Moves an image from buildah's store into the cluster's containerd, sending only the layers that are not there yet.

skopeo copies into an OCI layout and skips every layer whose blob the layout has. The layout does not keep gigabytes
for that: once containerd has unpacked a layer, its blob here becomes a hole of the same size, and containerd's own
packed copy goes too. A hole is removed when containerd no longer has the layer, so that skopeo writes it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from . import containerd, images
from .commands import ClusterError, run
from .settings import Paths

_NAME_IN_LAYOUT = "image"


def chain_ids(diff_ids: Sequence[str]) -> dict[str, str]:
    """Layer digest -> chain id, under which containerd keeps the layer unpacked on those below it. Pure.

    https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
    """
    chains: dict[str, str] = {}
    parent = ""
    for diff_id in diff_ids:
        text = f"{parent} {diff_id}"
        parent = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if parent else diff_id
        chains[diff_id] = parent
    return chains


def layers_to_send(diff_ids: Sequence[str], *, unpacked: Iterable[str]) -> list[str]:
    """The layers that containerd lacks, lowest first. Pure."""
    there = set(unpacked)
    return [layer for layer, chain in chain_ids(diff_ids).items() if chain not in there]


def superseded_references(before: Mapping[str, str], after: Mapping[str, str], *, tag: str) -> list[str]:
    """What Kubernetes' own references (`sha256:...`, `name@sha256:...`) still hold of the tag's old image. Pure."""
    old = before.get(tag)
    if old is None or old == after.get(tag):
        return []
    tagged = {digest for name, digest in after.items() if "sha256:" not in name}
    return [name for name, digest in after.items() if digest == old and "sha256:" in name and digest not in tagged]


def load(*, paths: Paths, tag: str, report: Callable[[str], None]) -> None:
    """Have the image of that tag in the cluster's containerd. Does nothing when it is there already."""
    started = time.monotonic()
    if not tag.startswith("localhost/"):
        raise ClusterError(f"`{tag}` must begin with localhost/, or Kubernetes would look for it in a registry.")
    image = images.inspect(tag, paths=paths)
    if image is None:
        raise ClusterError(f"There is no image {tag}: build it first with `python -m tests.cluster build-image`.")
    before = containerd.images(paths)
    missing = layers_to_send(image.diff_ids, unpacked=containerd.unpacked_chains(paths))
    if not missing and tag in before and containerd.image_id(paths, manifest_digest=before[tag]) == image.id:
        return
    layout = paths.images / "layout"
    _push(paths, tag=tag, layout=layout, image=image, missing=missing)
    sent = _import(paths, tag=tag, layout=layout, missing=missing)
    for name in superseded_references(before, containerd.images(paths), tag=tag):
        containerd.ctr(paths, "images", "rm", name)
    _hollow(paths, layout=layout, layers=missing)
    report(f"{tag} is loaded after {time.monotonic() - started:.1f} s ({sent / 1e6:.1f} MB sent)")


def forget(paths: Paths) -> None:
    """Drop the layout, for when containerd lost its images."""
    shutil.rmtree(paths.images / "layout", ignore_errors=True)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _push(paths: Paths, *, tag: str, layout: Path, image: images.LocalImage, missing: Sequence[str]) -> None:
    """Write manifest, configuration and the missing layers into the layout; drop holes of other images."""
    (layout / "index.json").unlink(missing_ok=True)
    for blob in layout.glob("blobs/sha256/*"):
        if f"sha256:{blob.name}" not in image.diff_ids and blob.stat().st_blocks:
            blob.unlink()  # left by an interrupted load, or an old manifest
    for layer in missing:
        _blob(layout, layer).unlink(missing_ok=True)
    # skopeo, because buildah 1.28 compresses whatever it pushes to a layout: minutes for the trainer's gigabytes.
    target = f"oci:{layout}:{_NAME_IN_LAYOUT}"
    run(
        [
            "skopeo",
            "copy",
            "--quiet",
            "--dest-oci-accept-uncompressed-layers",
            images.store_reference(paths, tag),
            target,
        ]
    )


def _import(paths: Paths, *, tag: str, layout: Path, missing: Sequence[str]) -> int:
    """Stream a tar with the manifest, the configuration and the missing layers to containerd; return its bytes."""
    index: dict[str, Any] = json.loads((layout / "index.json").read_text())
    descriptor = index["manifests"][-1]
    manifest: dict[str, Any] = json.loads(_blob(layout, descriptor["digest"]).read_text())
    # The name that containerd's importer takes as it is.
    descriptor["annotations"] = {"io.containerd.image.name": tag}
    index["manifests"] = [descriptor]
    blobs = [descriptor["digest"], manifest["config"]["digest"], *missing]
    argv = containerd.command(paths, "images", "import", "-")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as importer:
        assert importer.stdin
        assert importer.stdout
        try:
            _write_archive(importer.stdin, index=index, layout=layout, digests=blobs)
            importer.stdin.close()
        except BrokenPipeError:
            pass  # the importer says why, below
        output = importer.stdout.read().decode(errors="replace")
    if importer.returncode:
        raise ClusterError(f"containerd did not take {tag}: {output.strip()}")
    return sum(_blob(layout, digest).stat().st_size for digest in blobs)


def _write_archive(stream: IO[bytes], *, index: Mapping[str, Any], layout: Path, digests: Sequence[str]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20) as archive:
        for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for digest in digests:
            archive.add(_blob(layout, digest), arcname=f"blobs/{digest.replace(':', '/')}")


def _hollow(paths: Paths, *, layout: Path, layers: Sequence[str]) -> None:
    """Give back the room of packed layers: they are unpacked in containerd now and packed in buildah's store."""
    for layer in layers:
        size = _blob(layout, layer).stat().st_size
        os.truncate(_blob(layout, layer), 0)
        os.truncate(_blob(layout, layer), size)
    if layers:
        containerd.ctr(paths, "content", "rm", *layers)
