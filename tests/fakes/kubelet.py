"""A fake scheduler and kubelet that do nothing by themselves, on top of the fake Job controller, which does.

A test decides what becomes of a pod: it calls `schedule`, `start`, `terminate` and so on. Two things happen on their
own, as in a cluster: Jobs get their pods and their status, and a pod that is deleted while bound to a node gets its
SIGTERM (`on_sigterm` decides how it ends) and then goes away.

    async with Kubelet(server) as kubelet:
        pod = await kubelet.pod_of("run-prepare", "team-a")
        kubelet.start(pod, pod_ip="127.0.0.5")
        kubelet.terminate(pod, exit_code=0, message='{"reason": "Prepared"}')
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from . import jobs
from .apiserver import FakeApiServer
from .apply import Manager
from .copying import copied
from .resources import Obj, Resource
from .store import Change

_STATUS = Manager(name="kubelet", operation="Update", subresource="status")
_BINDING = Manager(name="kube-scheduler", operation="Update")
_SIGTERMED = 143
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Termination:
    """How a container ends; `message` is its termination message."""

    exit_code: int
    message: str = ""


SigtermHook = Callable[[Obj], Termination | None]


def die_of_sigterm(_: Obj) -> Termination:
    """The end of a process that does not handle SIGTERM."""
    return Termination(exit_code=_SIGTERMED)


class Kubelet:
    """The pods of one fake API server. Pod arguments name the pod; their content may be out of date.

    `on_sigterm` is called once per deleted running pod; None means the pod is still busy, until `terminate` is called.
    """

    def __init__(self, server: FakeApiServer, *, on_sigterm: SigtermHook = die_of_sigterm) -> None:
        self.on_sigterm = on_sigterm
        self.clocks: dict[str, timedelta] = {}
        """How far the clocks of nodes are ahead, by name of the node."""
        self._server = server
        self._store = server.store
        self._signalled: set[str] = set()
        self._due = False
        self._paused = False

    async def __aenter__(self) -> Self:
        self._store.listeners.append(self._on_change)
        self.sync()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._store.listeners.remove(self._on_change)

    def sync(self) -> None:
        """Bring Jobs and deleted pods to rest. Needed by hand only after the server's clock was moved."""
        before = -1
        while before != self._store.revision:
            before = self._store.revision
            jobs.sync_all(self._store)
            for pod in self._store.list_objects(self._pods):
                if pod["metadata"].get("deletionTimestamp"):
                    self._end_deleted(pod)

    async def pod_of(self, job: str, namespace: str = "default", *, timeout: float = 60.0) -> Obj:  # noqa: ASYNC109 - as wait_for
        """The pod of the Job that has neither ended nor been deleted, as soon as there is one."""
        return (
            await self._server.wait_for(lambda: self._live(job, namespace), timeout=timeout, what=f"a pod of {job}")
        )[0]

    def schedule(self, pod: Obj, *, node: str = "node-1") -> None:
        """Bind the pod to a node."""
        current = self._current(pod)
        current["spec"]["nodeName"] = node
        self._store.update(self._pods, current, manager=_BINDING)
        self._write(pod, conditions={"PodScheduled": ("True", "", "")})

    def unschedulable(self, pod: Obj, message: str) -> None:
        """`0/1 nodes are available: 1 Insufficient nvidia.com/gpu.`"""
        self._write(pod, conditions={"PodScheduled": ("False", "Unschedulable", message)})

    def waiting(self, pod: Obj, *, reason: str, message: str = "") -> None:
        """The main container cannot start: ImagePullBackOff, CreateContainerConfigError ..."""
        self._ensure_scheduled(pod, "node-1")
        self._write(pod, state={"waiting": {"reason": reason, "message": message}})

    def start(self, pod: Obj, *, node: str = "node-1", pod_ip: str = "127.0.0.1") -> None:
        """The containers run and are ready. The operator will poll `pod_ip`: any address of 127.0.0.0/8 can serve."""
        self._ensure_scheduled(pod, node)
        now = self._node_time(pod)
        self._write(
            pod,
            phase="Running",
            state={"running": {"startedAt": now}},
            conditions={"Ready": ("True", "", ""), "ContainersReady": ("True", "", "")},
            extra={"podIP": pod_ip, "podIPs": [{"ip": pod_ip}], "hostIP": "127.0.0.1", "startTime": now},
        )

    def terminate(
        self, pod: Obj, *, exit_code: int, message: str = "", reason: str = "", others_run: bool = False
    ) -> None:
        """The main container ends. `reason` defaults to Completed or Error; OOMKilled is another that occurs. The pod
        ends too, unless its other containers run on."""
        self._ensure_scheduled(pod, "node-1")
        current, now = self._current(pod), self._node_time(pod)
        started = current["status"].get("startTime", now)
        terminated: Obj = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed")}
        terminated |= {"startedAt": started, "finishedAt": now} | ({"message": message} if message else {})
        ready = ("False", "PodFailed" if exit_code else "PodCompleted", "")
        self._write(
            pod,
            phase=None if others_run else "Failed" if exit_code else "Succeeded",
            state={"terminated": terminated},
            others={"running": {"startedAt": started}} if others_run else None,
            conditions={"Ready": ready, "ContainersReady": ready},
        )

    def inject(self, pod: Obj, container: str) -> None:
        """A webhook adds a container to a pod that is being created."""
        current = self._current(pod)
        current["spec"]["containers"].append({"name": container, "image": "registry.example/proxy:1"})
        self._store.update(self._pods, current, manager=_BINDING)

    def end_others(self, pod: Obj) -> None:
        """The other containers end at last, and with them the pod."""
        statuses = self._current(pod)["status"]["containerStatuses"]
        state = next(entry["state"] for entry in statuses if "terminated" in entry["state"])
        self._write(pod, phase="Failed" if state["terminated"]["exitCode"] else "Succeeded", state=state)

    def disrupt(self, pod: Obj, *, reason: str = "EvictionByEvictionAPI") -> None:
        """A drain or preemption: the DisruptionTarget condition, then deletion with SIGTERM."""
        self._write(pod, conditions={"DisruptionTarget": ("True", reason, "Eviction API: evicting")})
        self._server.delete("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])

    def press(self, pod: Obj) -> None:
        """The kubelet evicts the pod, as its node runs short of something: killed and marked as disrupted."""
        why = "The node was low on resource: ephemeral-storage."
        disrupted = {"DisruptionTarget": ("True", "TerminationByKubelet", why)}
        self._write(pod, conditions=disrupted, extra={"reason": "Evicted", "message": why})
        self.terminate(pod, exit_code=137, reason="Error")

    def lose(self, pod: Obj, *, disrupted: bool = True) -> None:
        """The pod is gone for good and leaves no termination message. `disrupted`: pod garbage collection found its
        node lost and said so; otherwise nobody knows why."""
        self._signalled.add(pod["metadata"]["uid"])
        why = ("True", "DeletionByPodGC", "PodGC: node no longer exists")
        self._write(pod, phase="Failed", conditions={"DisruptionTarget": why} if disrupted else None)
        metadata = pod["metadata"]
        self._store.delete(self._pods, metadata["namespace"], metadata["name"], grace=0, uid=metadata["uid"])

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nobody reconciles Jobs or ends deleted pods meanwhile, as while controllers elect their leader."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self._wake()

    @property
    def _pods(self) -> Resource:
        return self._store.resources.find("pods")

    def _live(self, job: str, namespace: str) -> list[Obj]:
        return [
            pod
            for pod in self._server.objects("pods", namespace)
            if pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") == job
            and not pod["metadata"].get("deletionTimestamp")
            and pod["status"]["phase"] not in _ENDED
        ]

    def _node_time(self, pod: Obj) -> str:
        """The time by the clock of the pod's node."""
        ahead = self.clocks.get(self._current(pod)["spec"]["nodeName"], timedelta())
        return self._store.now(ahead=ahead.total_seconds())

    def _current(self, pod: Obj) -> Obj:
        current = self._server.get("pods", pod["metadata"]["name"], pod["metadata"]["namespace"])
        del current["metadata"]["resourceVersion"]
        return current

    def _ensure_scheduled(self, pod: Obj, node: str) -> None:
        if not self._current(pod)["spec"].get("nodeName"):
            self.schedule(pod, node=node)

    def _write(
        self,
        pod: Obj,
        *,
        phase: str | None = None,
        state: Obj | None = None,
        others: Obj | None = None,
        conditions: dict[str, tuple[str, str, str]] | None = None,
        extra: Obj | None = None,
    ) -> None:
        current = self._current(pod)
        status = current["status"] | (extra or {}) | ({"phase": phase} if phase else {})
        merged = {c["type"]: c for c in status.get("conditions", ())}
        for kind, (value, reason, message) in (conditions or {}).items():
            entry: Obj = {"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": self._store.now()}
            merged[kind] = entry | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})
        status["conditions"] = list(merged.values())
        if state is not None:
            status["containerStatuses"] = _container_statuses(current, state, others)
        self._store.update(self._pods, current | {"status": status}, manager=_STATUS)

    def _end_deleted(self, pod: Obj) -> None:
        uid = pod["metadata"]["uid"]
        if pod["status"]["phase"] not in _ENDED:
            if uid in self._signalled:
                return
            self._signalled.add(uid)
            if pod["status"]["phase"] == "Running":
                end = self.on_sigterm(copied(pod))
                if end is None:
                    return
                self.terminate(pod, exit_code=end.exit_code, message=end.message)
            else:
                self._write(pod, phase="Failed")  # what never ran gets no signal and fails all the same
        if pod["metadata"].get("deletionGracePeriodSeconds"):
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            self._store.delete(self._pods, namespace, name, grace=0, uid=uid)

    def _on_change(self, change: Change) -> None:
        if change.key in ("jobs.batch", "pods"):
            self._wake()

    def _wake(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._sync_later)

    def _sync_later(self) -> None:
        try:
            if not self._paused:
                self.sync()
        except Exception as error:
            self._server.crashes.append(error)
            raise
        finally:
            self._due = False


def _container_statuses(pod: Obj, state: Obj, others: Obj | None) -> list[Obj]:
    """The first container has the state. The others have theirs, or follow it without message and with exit code 0."""
    statuses: list[Obj] = []
    for index, container in enumerate(pod["spec"].get("containers", ())):
        own = others if index and others is not None else state
        if index and "terminated" in own:
            own = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        image = container.get("image", "")
        ready = "running" in own
        status = {"name": container["name"], "image": image, "imageID": image, "restartCount": 0}
        statuses.append(status | {"state": own, "ready": ready, "started": ready})
    return statuses
