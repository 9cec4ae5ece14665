"""Bringing the cluster up and down, whatever state the last run left it in."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import containerd, footprint, health, images, loading, network, pki, processes, system_packages, toolchain
from .commands import ClusterError, run
from .components import Component, components
from .configuration import configuration_files
from .settings import CLUSTER_DOMAIN, DNS_SERVICE_ADDRESS, HERE, NODE_NAME, PAUSE_IMAGE, Paths

Report = Callable[[str], None]

_PATIENCE = 240.0
"""Seconds for a part to become healthy; a process that ended is told at once. Most need a few, on an idle machine."""
_SHIM = "containerd-shim-runc-v2"


def up(*, paths: Paths, report: Report) -> None:
    """Make a healthy cluster, from nothing or from what is left of one; returns at once when it is healthy."""
    system_packages.require()
    toolchain.build(paths=paths, report=report)
    if paths.state.exists() and _boot_id() != _read(paths.state / "boot-id"):
        report("the machine was restarted since the cluster ran: starting afresh")
        down(paths=paths, report=report)
    existed = paths.state.exists()
    try:
        heal(paths=paths, report=report)
    except ClusterError as error:
        if not existed:
            raise
        report(f"the cluster that was here does not heal, so it starts afresh. What was wrong: {error}")
        down(paths=paths, report=report)
        heal(paths=paths, report=report)


def heal(*, paths: Paths, report: Report) -> None:
    """Start what is missing or unhealthy of the cluster, and keep what it stores. Raises ClusterError where that is not
    enough: a caller that still needs its objects must know that `up` would have removed them."""
    programs = toolchain.programs(paths)
    parts = components(paths=paths, programs=programs)
    if paths.state.exists() and not problems(paths=paths, parts=parts):
        _ensure_pause_image(paths=paths, programs=programs, report=report)
    else:
        _converge(paths=paths, parts=parts, programs=programs, report=report)


def _converge(*, paths: Paths, parts: Sequence[Component], programs: Mapping[str, Path], report: Report) -> None:
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    (paths.state / "boot-id").write_text(_boot_id())
    footprint.remember(paths.state / "footprint.json")
    lay_out(paths=paths, programs=programs)
    network.create()
    for part in parts:
        _ensure(part, paths=paths, report=report)
        if part.name == "containerd":
            _ensure_pause_image(paths=paths, programs=programs, report=report)
        elif part.name == "kube-apiserver":
            _wait("the API server takes our manifests", lambda: _apply_manifests(paths))
        elif part.name == "kubelet":  # before kube-proxy, which looks for the node at once and then after 30 s again
            _wait(f"node {NODE_NAME} is Ready", lambda: node_ready(paths))
    _wait(
        "DNS answers",
        lambda: health.dns_answers(f"kubernetes.default.svc.{CLUSTER_DOMAIN}", server=DNS_SERVICE_ADDRESS),
    )


def _ensure_pause_image(*, paths: Paths, programs: Mapping[str, Path], report: Report) -> None:
    """Have the image without which no pod starts: it could be pulled from nowhere."""
    images.build_static(paths=paths, tag=PAUSE_IMAGE, program=programs["pause"], report=report)
    loading.load(paths=paths, tag=PAUSE_IMAGE, report=report)


def lay_out(*, paths: Paths, programs: Mapping[str, Path]) -> None:
    """Write what components read before they start: certificates and configuration; and have kubectl at hand."""
    pki.issue(paths.pki)
    _write_configuration(paths)
    _link_kubectl(paths, programs["kubectl"])


def _ensure(part: Component, *, paths: Paths, report: Report) -> None:
    """Have the component running as asked and healthy."""
    records = paths.state / "processes"
    record = processes.running(part.name, records=records)
    if record and record.fingerprint == processes.fingerprint(part):
        with contextlib.suppress(ClusterError):
            _wait_healthy(part, paths=paths, patience=5)
            return
    started = time.monotonic()
    processes.stop(part.name, records=records)
    _claim_ports(part, paths=paths)
    processes.start(part, records=records, logs=paths.logs)
    _wait_healthy(part, paths=paths, patience=_PATIENCE)
    report(f"{part.name} is healthy after {time.monotonic() - started:.1f} s")


def _claim_ports(part: Component, *, paths: Paths) -> None:
    """End a process of ours that lost its record; raise ClusterError when somebody else holds the port."""
    program = Path(part.argv[0]).name
    processes.end(processes.find(programs=[program], mention=str(paths.state)), patience=20)
    for host, port in part.ports:
        if not health.port_free(host, port):
            raise ClusterError(
                f"{part.name} needs {host}:{port}, but another program listens there "
                f"(`ss -ltnp 'sport = :{port}'` shows which): end it, then try again."
            )


def _wait_healthy(part: Component, *, paths: Paths, patience: float) -> None:
    records, ca_file = paths.state / "processes", paths.pki / pki.CA_FILE
    wait_healthy(part, records=records, logs=paths.logs, ca_file=ca_file, patience=patience)


def wait_healthy(part: Component, *, records: Path, logs: Path, ca_file: Path, patience: float) -> None:
    """Wait until a process that was started is healthy. Raises ClusterError with the end of its log when it ended, or
    is not healthy after `patience` seconds."""
    log = logs / f"{part.name}.log"
    deadline = time.monotonic() + patience
    while not health.healthy(part.health, ca_file=ca_file):
        alive = processes.running(part.name, records=records)
        if not alive or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            what = f"is not healthy after {patience:.0f} s" if alive else "ended"
            raise ClusterError(f"{part.name} {what}. The end of {log}:\n{tail}")
        time.sleep(0.1)


def _wait(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"Waited {_PATIENCE:.0f} s in vain until {what}; the components' logs tell more.")
        time.sleep(0.2)


def down(*, paths: Paths, report: Report, purge: bool = False) -> None:
    """End the cluster and remove all traces; the caches of programs and images stay unless `purge`."""
    records, state = paths.state / "processes", str(paths.state)
    processes.stop("kubelet", records=records)  # first, or it would start the pods again
    if paths.state.exists():
        _remove_containers(paths, report=report)
    names = [
        "coredns",
        "kube-proxy",
        "kube-scheduler",
        "kube-controller-manager",
        "kube-apiserver",
        "etcd",
        "containerd",
    ]
    for name in names:
        processes.stop(name, records=records)
    shims = processes.find(programs=[_SHIM], mention=state)
    processes.kill([*processes.descendants(shims), *shims])
    processes.end(processes.find(programs=["kubelet", *names], mention=state), patience=10)
    footprint.unmount(below=[paths.state, paths.containerd_root, *([paths.images] if purge else [])])
    footprint.remove_pod_cgroups()
    network.remove()
    footprint.restore(paths.state / "footprint.json")
    _remove(paths.state)
    images.remove_runtime_state()
    if purge:
        _remove(paths.binaries)
        _remove(paths.images)


def _remove_containers(paths: Paths, *, report: Report) -> None:
    """Empty containerd of containers, so that its root can be kept as the image cache; drop the root if that fails."""
    shims = processes.find(programs=[_SHIM], mention=str(paths.state))
    processes.kill(processes.descendants(shims))
    try:
        if not health.healthy(f"unix:{paths.containerd_socket}", ca_file=paths.pki / pki.CA_FILE):
            _ensure(components(paths=paths, programs=toolchain.programs(paths))[0], paths=paths, report=report)
        containerd.remove_containers(paths)
    except (ClusterError, OSError) as error:
        report(f"containerd does not let go of its containers, so its images go as well: {error}")
        processes.stop("containerd", records=paths.state / "processes")
        footprint.unmount(below=[paths.containerd_root])
        _remove(paths.containerd_root)


def stop(name: str, *, paths: Paths) -> None:
    """Stop one component; the others stay."""
    part = component(name, paths=paths)
    processes.stop(part.name, records=paths.state / "processes")


def lose_node(*, paths: Paths, report: Report) -> None:
    """Stop the kubelet and end every container, as if the machine were gone; `up` brings it back, empty."""
    stop("kubelet", paths=paths)
    _remove_containers(paths, report=report)


def start(name: str, *, paths: Paths, report: Report) -> None:
    """Start one component if it does not run, and wait until it is healthy."""
    _ensure(component(name, paths=paths), paths=paths, report=report)


def component(name: str, *, paths: Paths) -> Component:
    """The component of that name; raises ClusterError that lists the names there are."""
    if not paths.state.exists():
        raise ClusterError("No cluster is up: run `python -m tests.cluster up` first.")
    parts = {part.name: part for part in components(paths=paths, programs=toolchain.programs(paths))}
    if name not in parts:
        raise ClusterError(f"There is no component `{name}`; there are {', '.join(parts)}.")
    return parts[name]


def problems(*, paths: Paths, parts: Sequence[Component]) -> list[str]:
    """What keeps the cluster from being healthy, a sentence each; empty when it is."""
    found = []
    for part in parts:
        record = processes.running(part.name, records=paths.state / "processes")
        if not record:
            found.append(f"{part.name} does not run.")
        elif record.fingerprint != processes.fingerprint(part):
            found.append(f"{part.name} runs with an older command line or configuration.")
        elif not health.healthy(part.health, ca_file=paths.pki / pki.CA_FILE):
            found.append(f"{part.name} runs but is not healthy.")
    if not found and not node_ready(paths):
        found.append(f"Node {NODE_NAME} is not Ready.")
    return found


def kubectl(paths: Paths, *arguments: object, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's admin; raises ClusterError."""
    return run([paths.state / "bin/kubectl", "--kubeconfig", paths.kubeconfig, *arguments], stdin=stdin)


def node_ready(paths: Paths) -> bool:
    """Whether the node says so; False while the API server cannot be asked."""
    query = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    with contextlib.suppress(ClusterError):
        return kubectl(paths, "get", "node", NODE_NAME, "--output", query) == "True"
    return False


def set_node_capacity(resource: str, amount: str, *, paths: Paths) -> None:
    """Let the node claim an extended resource such as nvidia.com/gpu, so that pods asking for it are scheduled."""
    path = "/status/capacity/" + resource.replace("~", "~0").replace("/", "~1")
    patch = json.dumps([{"op": "add", "path": path, "value": amount}])
    kubectl(paths, "patch", "node", NODE_NAME, "--subresource=status", "--type=json", "--patch", patch)


def _apply_manifests(paths: Paths) -> bool:
    with contextlib.suppress(ClusterError):
        kubectl(paths, "apply", "--server-side", "--force-conflicts", "--filename", HERE / "manifests.yaml")
        return True
    return False


def _write_configuration(paths: Paths) -> None:
    for file, content in configuration_files(paths=paths, nameservers=network.nameservers_known()).items():
        if _read(file) != content:  # containerd reloads what is written, and may then read half of it
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(content)


def _link_kubectl(paths: Paths, kubectl_program: Path) -> None:
    link = paths.state / "bin/kubectl"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(kubectl_program)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
