"""What the benchmark runs beside the cluster's own programs, each a Go module of its upstream."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.commands import run
from tests.cluster.toolchain import GoModule

MODULES = Path(__file__).resolve().parents[1] / "modules"

JOBSET = GoModule(name="jobset", folder=MODULES / "jobset", programs={"jobset": "sigs.k8s.io/jobset"})
TRAINER = GoModule(
    name="kubeflow-trainer",
    folder=MODULES / "trainer",
    programs={"trainer-controller-manager": "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"},
)
KWOK = GoModule(name="kwok", folder=MODULES / "kwok", programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"})


def source_of(module: GoModule, path: str) -> Path:
    """The folder of an upstream module as Go downloaded it: its manifests are there."""
    run(["go", "-C", module.folder, "mod", "download", path])
    return Path(run(["go", "-C", module.folder, "list", "-m", "-f", "{{.Dir}}", path]).strip())
