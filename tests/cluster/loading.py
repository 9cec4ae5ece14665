"""Moves an image from buildah's store into the cluster's containerd within seconds, whatever its size.

Both keep a layer unpacked as a folder, on the same file system and in the same form, and neither ever writes to it
again. So a layer that containerd lacks is not packed, sent and unpacked: its files are hard-linked into a containerd
snapshot. Only the image's manifest and configuration, a few kilobytes, go through containerd's importer.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import containerd, images, layer_store
from .commands import ClusterError, run
from .layer_store import Layer
from .settings import Paths

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIGURATION_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def chain_ids(digests: Sequence[str]) -> list[str]:
    """For each layer, lowest first, the id under which containerd keeps it unpacked on those below it. Pure.

    https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
    """
    chains: list[str] = []
    for digest in digests:
        chains.append(_digest(f"{chains[-1]} {digest}".encode()) if chains else digest)
    return chains


def archive_files(*, tag: str, configuration: bytes, layers: Sequence[Layer]) -> dict[str, bytes]:
    """The files of an OCI archive that describes the image and leaves out its layers. Pure."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor(_CONFIGURATION_TYPE, configuration),
            "layers": [{"mediaType": _LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in layers],
        }
    ).encode()
    # With this annotation containerd's importer takes the name as it is.
    descriptor = {**_descriptor(_MANIFEST_TYPE, manifest), "annotations": {"io.containerd.image.name": tag}}
    index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [descriptor]}
    blobs = {f"blobs/{_digest(blob).replace(':', '/')}": blob for blob in (configuration, manifest)}
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **blobs}


def superseded_references(before: Mapping[str, str], after: Mapping[str, str], *, tag: str) -> list[str]:
    """Kubernetes' own references (`sha256:...`) that still hold the tag's former image. Pure."""
    former = before.get(tag)
    held_by_tags = {digest for name, digest in after.items() if "sha256:" not in name}
    if former is None or former in held_by_tags:
        return []
    return [name for name, digest in after.items() if digest == former]


def load(*, paths: Paths, tag: str, report: Callable[[str], None]) -> None:
    """Have the image of that tag in the cluster's containerd. Does nothing when it is there already."""
    started = time.monotonic()
    if not tag.startswith("localhost/"):
        raise ClusterError(f"`{tag}` must begin with localhost/, or Kubernetes would look for it in a registry.")
    if not paths.containerd_socket.exists():
        raise ClusterError("No cluster is up to load images into: run `python -m tests.cluster up` first.")
    image = images.inspect(tag, paths=paths)
    if image is None:
        raise ClusterError(f"There is no image {tag}: build it first with `python -m tests.cluster build-image`.")
    layers = layer_store.layers(images.store(paths), image_id=image.id)
    chains = chain_ids([layer.digest for layer in layers])
    there = containerd.unpacked_chains(paths)
    before = containerd.images(paths)
    missing = [chain for chain in chains if chain not in there]
    if not missing and tag in before and containerd.image_id(paths, manifest_digest=before[tag]) == image.id:
        return
    for layer, chain, parent in zip(layers, chains, ["", *chains], strict=False):
        if chain in missing:
            _link_layer(paths, layer=layer, chain=chain, parent=parent)
    _import(paths, archive_files(tag=tag, configuration=image.configuration.encode(), layers=layers))
    # The image holds its layers from now on, so that containerd drops them with the image.
    for chain in missing:
        containerd.ctr(paths, "snapshots", "label", chain, "containerd.io/gc.root=")
    for name in superseded_references(before, containerd.images(paths), tag=tag):
        containerd.ctr(paths, "images", "rm", name)
    report(f"{tag} is loaded after {time.monotonic() - started:.1f} s ({len(missing)} of {len(layers)} layers are new)")


def _link_layer(paths: Paths, *, layer: Layer, chain: str, parent: str) -> None:
    """Make the snapshot `chain` from the layer's folder. `cp` keeps owners, times, extended attributes and devices."""
    draft = f"loading-{chain}"
    if draft in containerd.snapshots(paths):  # of an interrupted load
        containerd.ctr(paths, "snapshots", "rm", draft)
    mounts = json.loads(containerd.ctr(paths, "snapshots", "prepare", "--mounts", draft, *([parent] if parent else [])))
    # buildah at times mounts its store's overlay folder onto itself, and no hard link crosses a mount. In a mount
    # namespace of its own, a plain bind of the folder above both hides that mount from `cp` and from nobody else.
    script = 'mount --bind "$1" "$1" && exec cp --archive --link "$2" "$3"'
    names = [paths.images, f"{layer.folder}/.", snapshot_folder(mounts)]
    run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *names])
    containerd.ctr(paths, "snapshots", "commit", chain, draft)


def snapshot_folder(mounts: Sequence[Mapping[str, Any]]) -> Path:
    """The folder that a new snapshot's own files go to, from the mounts that containerd answers. Pure."""
    (mount,) = mounts
    upper = [option.removeprefix("upperdir=") for option in mount["Options"] if option.startswith("upperdir=")]
    return Path(upper[0] if upper else mount["Source"])


def _import(paths: Paths, files: Mapping[str, bytes]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        archive.flush()
        containerd.ctr(paths, "images", "import", archive.name)


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
