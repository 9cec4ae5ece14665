"""A control plane alone (etcd, API server, controller manager): without a node, Jobs get pods that nobody runs.

It has a network and processes of its own: it disturbs no cluster of this machine, and nothing of it outlives the
program that asked for it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import lifecycle, toolchain
from .commands import require_root, run
from .settings import NODE_ADDRESS, Paths

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager")
_ISOLATED = "LORA_OPERATOR_ISOLATED"
_UNSHARE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")

Report = Callable[[str], None]


def isolate(module: str, arguments: Sequence[str], *, report: Report) -> None:
    """Begin this program (`python -m module arguments`) again where `running` may be called; returns if it is there.

    Raises RequirementError unless the user is root.
    """
    if os.environ.get(_ISOLATED):
        return
    require_root(verb=f"python -m {module}")
    toolchain.build(paths=Paths.from_environment(), report=report)  # in there is no way to the outside
    command = [*_UNSHARE, sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, os.environ | {_ISOLATED: "1"})


@contextmanager
def running(*, report: Report) -> Iterator[Paths]:
    """A control plane with nothing in it, until the block ends; where its files are. Raises ClusterError."""
    for words in (("link", "set", "lo", "up"), ("address", "add", f"{NODE_ADDRESS}/32", "dev", "lo")):
        run(["ip", *words])
    with tempfile.TemporaryDirectory(prefix="lora-operator-plane-") as folder:
        paths = replace(Paths.from_environment(), state=Path(folder))
        lifecycle.lay_out(paths=paths, programs=toolchain.programs(paths))
        try:
            for name in PARTS:
                lifecycle.start(name, paths=paths, report=report)
            yield paths
        finally:
            for name in reversed(PARTS):
                lifecycle.stop(name, paths=paths)
