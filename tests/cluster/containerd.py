"""Talking to the cluster's containerd through `ctr`: images, snapshots, content, containers."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .commands import run
from .settings import CONTAINERD_NAMESPACE, Paths


def command(paths: Paths, *arguments: object) -> list[str]:
    """The argument list of a `ctr` call."""
    return [
        "ctr", "--address", str(paths.containerd_socket), "--namespace", CONTAINERD_NAMESPACE, *map(str, arguments)
    ]  # fmt: skip


def ctr(paths: Paths, *arguments: object) -> str:
    """Run `ctr` and return its output; raises ClusterError."""
    return run(command(paths, *arguments))


def images(paths: Paths) -> dict[str, str]:
    """Image reference -> digest of its manifest."""
    rows = [line.split() for line in ctr(paths, "images", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def image_id(paths: Paths, *, manifest_digest: str) -> str:
    """The digest of the image's configuration, which Kubernetes and buildah call the image's id."""
    manifest: dict[str, Any] = json.loads(ctr(paths, "content", "get", manifest_digest))
    return str(manifest["config"]["digest"])


def snapshots(paths: Paths) -> dict[str, str]:
    """Snapshot name -> kind: Committed, Active or View."""
    rows = [line.split() for line in ctr(paths, "snapshots", "ls").splitlines()[1:]]
    return {row[0]: row[-1] for row in rows}


def unpacked_chains(paths: Paths) -> set[str]:
    """The chain ids of all layers that are unpacked."""
    return {name for name, kind in snapshots(paths).items() if kind == "Committed"}


def remove_containers(paths: Paths) -> None:
    """End every task at once and remove every container."""
    if tasks := ctr(paths, "tasks", "ls", "--quiet").split():
        # Its exit code is 1 for a task that ended in the meantime; the containers' removal below is what counts.
        subprocess.run(command(paths, "tasks", "rm", "--force", *tasks), capture_output=True, check=False)
    if containers := ctr(paths, "containers", "ls", "--quiet").split():
        ctr(paths, "containers", "rm", *containers)
