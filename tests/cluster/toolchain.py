"""Builds the cluster's programs from pinned Go modules into a cache. Knows nothing about running them.

A build's cache key is everything that decides its bytes: go.mod, go.sum, sources kept here, Go's version and flags.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from .commands import ClusterError, require_program, run
from .settings import HERE, KUBERNETES_VERSION, Paths

_COMPONENT_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
_STRIP = "-s -w"
_COMPILER = {"GOGC": "off", "GOMEMLIMIT": "1GiB"}
"""A compiler lives for seconds: as long as there is memory, collecting garbage is a third of what it costs."""


@dataclass(frozen=True, kw_only=True)
class GoModule:
    """One go.mod and the programs built from it.

    `programs` maps a program's name to its package. Programs that share a package are one file that asks for its name.
    """

    name: str
    folder: Path
    programs: Mapping[str, str]
    ldflags: str = _STRIP


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")

# One module, so that what its programs share is compiled once, and the processors have work until the last of them.
CLUSTER = (
    GoModule(
        name="programs",
        folder=HERE / "programs",
        programs={
            **dict.fromkeys(_KUBERNETES, "lora-operator.io/tests/cluster/programs/kubernetes"),
            # On its own, because it is started often, and would bring what all the others set up at their start.
            "kubectl": "k8s.io/kubernetes/cmd/kubectl",
            "coredns": "lora-operator.io/tests/cluster/programs/coredns",
            "etcd": "lora-operator.io/tests/cluster/programs/etcd",
            "pause": "lora-operator.io/tests/cluster/programs/pause",
            "versitygw": "github.com/versity/versitygw/cmd/versitygw",
        },
        ldflags=(
            f"{_STRIP} -X {_COMPONENT_VERSION}.gitVersion=v{KUBERNETES_VERSION}"
            f" -X {_COMPONENT_VERSION}.gitMajor={_MAJOR} -X {_COMPONENT_VERSION}.gitMinor={_MINOR}"
        ),
    ),
)
"""What a cluster with an object store consists of. Whoever needs more builds it beside this, when it is needed."""

KUEUE = GoModule(name="kueue", folder=HERE / "modules/kueue", programs={"kueue": "sigs.k8s.io/kueue/cmd/kueue"})
"""The queue that the tests of queues install."""
ARGOCD = GoModule(
    name="argocd", folder=HERE / "modules/argocd", programs={"argocd": "github.com/argoproj/argo-cd/v3/cmd"}
)
"""All of Argo CD in one binary: ARGOCD_BINARY_NAME says which part of it runs."""
KUSTOMIZE = GoModule(
    name="kustomize", folder=HERE / "modules/kustomize", programs={"kustomize": "sigs.k8s.io/kustomize/kustomize/v5"}
)
"""What Argo CD's repo-server calls."""
KSTATUS = GoModule(
    name="kstatus", folder=HERE / "kstatus", programs={"kstatus": "lora-operator.io/tests/cluster/kstatus"}
)
"""What Flux and Helm think of an object, for the test of our own kstatus."""
PROMETHEUS_OPERATOR = GoModule(name="prometheus-operator", folder=HERE / "modules/prometheus-operator", programs={})
"""For its CRDs; nothing of it runs."""


def cache_key(*, sources: Mapping[str, bytes], go_version: str, flags: Sequence[str]) -> str:
    """Sixteen hex digits that change when any input of the build changes. Pure."""
    digest = hashlib.sha256()
    parts = [go_version.encode(), *(flag.encode() for flag in flags)]
    parts += [part for name in sorted(sources) for part in (name.encode(), sources[name])]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def build_flags(module: GoModule) -> list[str]:
    """The flags of `go build`; static, without this machine's paths in the result, and nothing for debuggers."""
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false", "-ldflags", module.ldflags]


def go_version() -> str:
    """What `go env GOVERSION` says; raises RequirementError without Go."""
    require_program("go", remedy="install Go 1.25 or newer and put its bin folder on PATH.")
    return run(["go", "env", "GOVERSION"]).strip()


def output_folder(*, module: GoModule, paths: Paths, version: str) -> Path:
    """Where the module's programs are, or will be."""
    sources = {
        str(file.relative_to(module.folder)): file.read_bytes()
        for file in module.folder.rglob("*")
        if file.name in {"go.mod", "go.sum"} or file.suffix == ".go"
    }
    flags = [*build_flags(module), *module.programs, *module.programs.values()]
    return paths.binaries / f"{module.name}-{cache_key(sources=sources, go_version=version, flags=flags)}"


def programs(paths: Paths, *, modules: Sequence[GoModule] = CLUSTER) -> dict[str, Path]:
    """The path of each of the modules' programs in the cache, built or not."""
    version = go_version()
    return {
        program: output_folder(module=module, paths=paths, version=version) / program
        for module in modules
        for program in module.programs
    }


def build(*, paths: Paths, report: Callable[[str], None], modules: Sequence[GoModule] = CLUSTER) -> dict[str, Path]:
    """Build what the cache lacks, modules side by side, and return `programs`. A second call costs nothing."""
    version = go_version()
    wanted = {module.name: output_folder(module=module, paths=paths, version=version) for module in modules}
    todo = [module for module in modules if not wanted[module.name].exists()]
    if todo:
        report(f"building {', '.join(module.name for module in todo)} with {version} (minutes when Go's cache is cold)")
    with ThreadPoolExecutor(max_workers=max(1, len(todo))) as pool:
        builds = {pool.submit(_build_module, module, wanted[module.name]): module for module in todo}
        for done in as_completed(builds):
            report(f"built {builds[done].name} in {done.result():.0f} s")
    return programs(paths, modules=modules)


def source(module: GoModule, path: str) -> Path:
    """The folder with the sources of one of the Go modules that `module` requires, manifests and all."""
    answer = run(["go", "mod", "download", "-json", path], env={"GOWORK": "off"}, cwd=module.folder)
    return Path(json.loads(answer)["Dir"])


def executable_name(package: str) -> str:
    """The name that `go build` gives the package's program: its last part that is no major version. Pure."""
    *parents, last = package.split("/")
    return parents[-1] if parents and re.fullmatch(r"v([2-9]|[1-9][0-9]+)", last) else last


def _build_module(module: GoModule, output: Path) -> float:
    """Build into a folder beside `output` and rename it, so that an interrupted build leaves no half cache."""
    started = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{module.name}-") as scratch:
        result = Path(scratch) / "bin"
        result.mkdir()
        _go_build(module, target=result)
        for program, package in module.programs.items():
            if program != executable_name(package):
                (result / program).symlink_to(executable_name(package))
        if absent := [name for name in module.programs if not (result / name).exists()]:
            raise ClusterError(f"`go build` of {module.name} ended well but made no {', '.join(absent)}.")
        if output.exists():  # another run was faster
            shutil.rmtree(result)
        else:
            result.rename(output)
    return time.monotonic() - started


def _go_build(module: GoModule, *, target: Path) -> None:
    packages = sorted(set(module.programs.values()))
    completed = subprocess.run(
        ["go", "build", *build_flags(module), "-o", f"{target}/", *packages],
        cwd=module.folder,
        env={**_COMPILER, **os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        tail = "\n".join(completed.stderr.strip().splitlines()[-15:])
        raise ClusterError(f"`go build` of {module.name} (in {module.folder}) failed:\n{tail}")
