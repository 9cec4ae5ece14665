"""The real Argo CD as plain processes of this machine: repo-server, two controllers, Redis, and git for it to read.

They listen on 127.0.0.1, bar the metrics of the application controller. Argo CD's own objects and settings are in the
cluster's namespace argocd. It acts there as the admin: its RBAC is not tested.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tests.cluster import lifecycle, processes, toolchain
from tests.cluster.components import Component
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS
from tests.demo.kubectl import Kubectl
from tests.ports import free_ports

NAMESPACE = "argocd"
CONTROLLER = "argocd-application-controller"
SETS_CONTROLLER = "argocd-applicationset-controller"

PATIENCE = 60.0
"""Seconds in which each process must be healthy."""

Body = dict[str, Any]


def programs(paths: Paths) -> dict[str, Path]:
    """Argo CD and the kustomize that it calls, built where the cache lacks them."""
    return toolchain.build(paths=paths, report=print, modules=(toolchain.ARGOCD, toolchain.KUSTOMIZE))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the processes listen."""

    redis: int
    git: int
    repository: int
    repository_health: int
    metrics: int
    sets: int
    sets_probes: int
    sets_hooks: int

    @classmethod
    def allocate(cls) -> Ports:
        """Ports that were free a moment ago."""
        names = [field.name for field in fields(cls)]
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))


@dataclass(frozen=True, kw_only=True)
class ArgoCD:
    """One installation."""

    kubectl: Kubectl
    folder: Path
    programs: Mapping[str, Path]
    ports: Ports = field(default_factory=Ports.allocate)

    @property
    def repositories(self) -> Path:
        """What lies in this folder is served under `url`."""
        return self.folder / "git"

    def url(self, repository: str) -> str:
        """Where Argo CD reads the repository of that name."""
        return f"git://127.0.0.1:{self.ports.git}/{repository}"

    def install(self) -> None:
        """Apply Argo CD's kinds and settings, the default project, and our settings as the documentation says."""
        source = toolchain.source(toolchain.ARGOCD, "github.com/argoproj/argo-cd/v3")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        anything = [{"group": "*", "kind": "*"}]
        spec = {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": anything,
        }
        project = {"apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "spec": spec}
        self.kubectl.apply(namespace)
        self.kubectl.apply_crds("-k", source / "manifests/crds")
        self.kubectl("apply", "--server-side", "-n", NAMESPACE, "-k", source / "manifests/base/config")
        key = '{"stringData": {"server.secretkey": "made by argocd-server, which does not run here"}}'
        self.kubectl("-n", NAMESPACE, "patch", "secret", "argocd-secret", "-p", key)
        self.kubectl.apply(project | {"metadata": {"name": "default", "namespace": NAMESPACE}})
        self.kubectl("apply", "--server-side", "-k", MANIFESTS / "argocd/settings")

    def uninstall(self) -> None:
        """Take its objects out of the cluster, and leave what they have brought."""
        source = toolchain.source(toolchain.ARGOCD, "github.com/argoproj/argo-cd/v3")
        kinds = "applicationsets,applications"
        for name in self.kubectl("-n", NAMESPACE, "get", kinds, "-o", "name").split():
            patch = '{"metadata": {"finalizers": null}}'
            self.kubectl("-n", NAMESPACE, "patch", name, "--type=merge", "-p", patch)
        self.kubectl("delete", "namespace", NAMESPACE)
        self.kubectl("delete", "-k", source / "manifests/crds")

    def start(self, name: str) -> None:
        """Start one of the processes and wait until it is healthy."""
        part, records, logs = self.parts[name], self.folder / "processes", self.folder / "logs"
        processes.start(part, records=records, logs=logs)
        lifecycle.wait_healthy(part, records=records, logs=logs, ca_file=self.folder, patience=PATIENCE)

    def stop(self, name: str) -> None:
        """Stop it."""
        processes.stop(name, records=self.folder / "processes")

    @property
    def parts(self) -> dict[str, Component]:
        """The processes by name, in the order in which they start."""
        ports, mine = self.ports, "--namespace=argocd"
        cache = f"127.0.0.1:{ports.redis}"
        redis = ("redis-server", "--bind", "127.0.0.1", "--port", str(ports.redis), "--save", "")
        # A daemon before this one may have left connections in TIME_WAIT.
        daemon = ("git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={ports.git}", "--export-all")
        served = (f"--base-path={self.repositories}", str(self.repositories))
        reads = (f"--port={ports.repository}", "--address=127.0.0.1", f"--redis={cache}", "--disable-tls")
        answers = ("--metrics-address=127.0.0.1", f"--metrics-port={ports.repository_health}")
        from_git = f"127.0.0.1:{ports.repository}"
        compares = (f"--repo-server={from_git}", "--repo-server-plaintext", f"--redis={cache}")
        counts = f"--metrics-port={ports.metrics}"
        generates = (f"--argocd-repo-server={from_git}", "--repo-server-plaintext")
        listens = tuple(
            f"--{name}-addr=127.0.0.1:{port}"
            for name, port in (("metrics", ports.sets), ("probe", ports.sets_probes), ("webhook", ports.sets_hooks))
        )
        parts = (
            Component(name="redis", argv=(*redis, "--dir", str(self.folder)), health=f"tcp:{cache}"),
            Component(name="git", argv=(*daemon, *served), health=f"tcp:127.0.0.1:{ports.git}"),
            self._part("argocd-repo-server", *reads, *answers, health=f"{ports.repository_health}/healthz"),
            self._part(CONTROLLER, *compares, counts, mine, health=f"{ports.metrics}/healthz"),
            self._part(SETS_CONTROLLER, *generates, *listens, mine, health=f"{ports.sets}/metrics"),
        )
        return {part.name: part for part in parts}

    def _part(self, name: str, *arguments: str, health: str) -> Component:
        """One binary is all of Argo CD; the environment says which part of it."""
        environment = {
            "ARGOCD_BINARY_NAME": name,
            "ARGOCD_FAKE_IN_CLUSTER": "true",  # the cluster of KUBECONFIG is https://kubernetes.default.svc
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_RECONCILIATION_TIMEOUT": "10s",
            "ARGOCD_SSH_DATA_PATH": str(self.folder),
            "ARGOCD_TLS_DATA_PATH": str(self.folder),
            "HOME": str(self.folder),
            "HOSTNAME": f"{name}-0",
            "KUBECONFIG": str(self.kubectl.kubeconfig),
            "PATH": f"{self.programs['kustomize'].parent}:/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": str(self.folder),
        }
        argv = (str(self.programs["argocd"]), "--loglevel=info", *arguments)
        return Component(name=name, argv=argv, environment=environment, health=f"http://127.0.0.1:{health}")

    # --- what people do with it -----------------------------------------------------------------------------------

    def application(self, name: str) -> Body | None:
        """The Application as it stands, if there is one."""
        return self.kubectl.rest.get(f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/applications/{name}")

    def refresh(self, name: str) -> None:
        """Have the Application compared anew with git and cluster, past every cache, and wait until it was."""
        annotation = "argocd.argoproj.io/refresh"
        self.kubectl("-n", NAMESPACE, "annotate", "application", name, f"{annotation}=hard", "--overwrite")
        self.wait(name, lambda app: annotation not in app["metadata"].get("annotations", {}), "a refresh", seconds=60)

    def regenerate(self, name: str) -> None:
        """Have the ApplicationSet read git anew; it would by itself every three minutes."""
        annotation = "argocd.argoproj.io/application-set-refresh=true"
        self.kubectl("-n", NAMESPACE, "annotate", "applicationset", name, annotation, "--overwrite")

    def sync(self, name: str) -> None:
        """Sync it as `argocd app sync` does, and wait until that has succeeded."""
        operation = '{"operation": {"initiatedBy": {"username": "test"}, "sync": {"prune": true}}}'
        before = (self.application(name) or {}).get("status", {}).get("operationState", {}).get("startedAt")
        time.sleep(1.1)  # startedAt counts seconds
        self.kubectl("-n", NAMESPACE, "patch", "application", name, "--type=merge", "-p", operation)

        def done(app: Body) -> bool:
            state = app.get("status", {}).get("operationState", {})
            return state.get("startedAt") != before and state.get("phase") == "Succeeded"

        self.wait(name, done, "a sync", seconds=60)

    def wait(self, name: str, so: Callable[[Body], bool], what: str, *, seconds: float) -> Body:
        """Wait until the Application is so; raises AssertionError with its status."""
        deadline = time.monotonic() + seconds
        while True:
            app = self.application(name)
            if app is not None and so(app):
                return app
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: waited for {what}, but it stands at {(app or {}).get('status')}")
            time.sleep(0.5)


def standing(app: Body) -> tuple[str | None, str | None]:
    """Sync and health of an Application, as its list shows them."""
    status = app.get("status", {})
    return status.get("sync", {}).get("status"), status.get("health", {}).get("status")


@contextlib.contextmanager
def running(kubectl: Kubectl, *, folder: Path, programs: Mapping[str, Path]) -> Iterator[ArgoCD]:
    """Argo CD in the cluster until the end of the block."""
    argo = ArgoCD(kubectl=kubectl, folder=folder, programs=programs)
    argo.repositories.mkdir(parents=True)
    argo.install()
    try:
        for name in argo.parts:
            argo.start(name)
        yield argo
    finally:
        for name in reversed(argo.parts):
            argo.stop(name)
        argo.uninstall()
