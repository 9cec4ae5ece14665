"""`python -m tests.cluster <verb>`: a real one-node Kubernetes on this machine, without Docker. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from . import images, lifecycle, loading, status, system_packages, toolchain
from .commands import ClusterError, RequirementError, require_root
from .settings import BASE_IMAGE, OBJECT_STORE_IMAGE, Paths

_console = Console(stderr=True, highlight=False)


def _report(line: str) -> None:
    _console.print(f"[dim]cluster[/dim]  {line}", markup=True, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("system-packages", help="install the missing Debian packages (root)")
    verbs.add_parser("build", help="build the cluster's programs into the cache")
    verbs.add_parser("up", help="bring the cluster up, or heal it (root)")
    down = verbs.add_parser("down", help="end the cluster and remove its traces (root)")
    down.add_argument("--purge", action="store_true", help="also remove the cached programs and images")
    verbs.add_parser("status", help="what runs (root)")
    for verb in ("start", "stop", "restart"):
        verbs.add_parser(verb, help=f"{verb} one component (root)").add_argument("component")
    verbs.add_parser("base-image", help=f"build {BASE_IMAGE} (root)")
    verbs.add_parser("object-store-image", help=f"build {OBJECT_STORE_IMAGE} and load it if the cluster is up (root)")
    image = verbs.add_parser("build-image", help="build a Dockerfile (root)")
    image.add_argument("--file", type=Path, required=True)
    image.add_argument("--tag", required=True)
    image.add_argument("--target")
    image.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE")
    image.add_argument("context", type=Path)
    verbs.add_parser("load", help="load built images into the cluster (root)").add_argument("tag", nargs="+")
    capacity = verbs.add_parser("node-capacity", help="let the node claim an extended resource (root)")
    capacity.add_argument("resource", metavar="NAME=AMOUNT", help="for example nvidia.com/gpu=1")
    return parser


def _up(_: argparse.Namespace, paths: Paths) -> None:
    lifecycle.up(paths=paths, report=_report)
    print(f"export KUBECONFIG={paths.kubeconfig}")
    print(f'export PATH={paths.state / "bin"}:"$PATH"')


def _down(arguments: argparse.Namespace, paths: Paths) -> None:
    lifecycle.down(paths=paths, report=_report, purge=arguments.purge)


def _build(_: argparse.Namespace, paths: Paths) -> None:
    for program, path in toolchain.build(paths=paths, report=_report).items():
        print(f"{program}\t{path}")


def _system_packages(_: argparse.Namespace, paths: Paths) -> None:
    del paths
    installed = system_packages.install()
    _report(f"installed {', '.join(installed)}" if installed else "every package is there")


def _restart(arguments: argparse.Namespace, paths: Paths) -> None:
    lifecycle.stop(arguments.component, paths=paths)
    lifecycle.start(arguments.component, paths=paths, report=_report)


def _base_image(_: argparse.Namespace, paths: Paths) -> None:
    with _alone(paths):
        images.build_base(paths=paths, report=_report)


def _build_image(arguments: argparse.Namespace, paths: Paths) -> None:
    pairs = [text.partition("=") for text in arguments.build_arg]
    if wrong := [name for name, sign, _ in pairs if not (name and sign)]:
        raise RequirementError(f"--build-arg wants KEY=VALUE, not `{wrong[0]}`.")
    build_arguments = {name: value for name, _, value in pairs}
    if "BASE_IMAGE" not in build_arguments:
        _base_image(arguments, paths)
    images.build(
        paths=paths,
        context=arguments.context,
        file=arguments.file,
        tag=arguments.tag,
        target=arguments.target,
        arguments=build_arguments,
        report=_report,
    )


def _object_store_image(_: argparse.Namespace, paths: Paths) -> None:
    program = toolchain.build(paths=paths, report=_report)["versitygw"]
    images.build_static(paths=paths, tag=OBJECT_STORE_IMAGE, program=program, report=_report)
    if paths.containerd_socket.exists():
        loading.load(paths=paths, tag=OBJECT_STORE_IMAGE, report=_report)


def _load(arguments: argparse.Namespace, paths: Paths) -> None:
    for tag in arguments.tag:
        loading.load(paths=paths, tag=tag, report=_report)


def _node_capacity(arguments: argparse.Namespace, paths: Paths) -> None:
    name, sign, amount = arguments.resource.partition("=")
    if not (name and sign and amount):
        raise RequirementError(f"node-capacity wants NAME=AMOUNT such as nvidia.com/gpu=1, not `{arguments.resource}`.")
    lifecycle.set_node_capacity(name, amount, paths=paths)


# These may take long and can run beside the others, and beside each other.
_CONCURRENT = {"build", "build-image", "base-image", "status"}

_VERBS: dict[str, Callable[[argparse.Namespace, Paths], None]] = {
    "system-packages": _system_packages,
    "build": _build,
    "up": _up,
    "down": _down,
    "status": lambda _, paths: status.show(paths=paths, console=Console()),
    "start": lambda arguments, paths: lifecycle.start(arguments.component, paths=paths, report=_report),
    "stop": lambda arguments, paths: lifecycle.stop(arguments.component, paths=paths),
    "restart": _restart,
    "base-image": _base_image,
    "object-store-image": _object_store_image,
    "build-image": _build_image,
    "load": _load,
    "node-capacity": _node_capacity,
}


@contextlib.contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """One verb that changes the cluster at a time; a second one waits."""
    paths.cache.mkdir(parents=True, exist_ok=True)
    with (paths.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _report("waiting for another run of this program to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 done, 1 it went wrong, 2 this machine or user lacks something or the arguments are wrong."""
    arguments = _parser().parse_args(argv)
    paths = Paths.from_environment()
    # Debian keeps nft, debootstrap and ip in folders that a user's PATH may lack.
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/local/go/bin:/usr/sbin:/sbin"
    started = time.monotonic()
    try:
        if arguments.verb != "build":
            require_root(verb=arguments.verb)
        with contextlib.nullcontext() if arguments.verb in _CONCURRENT else _alone(paths):
            _VERBS[arguments.verb](arguments, paths)
    except RequirementError as error:
        _console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 2
    except ClusterError as error:
        _console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    _report(f"{arguments.verb} took {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
