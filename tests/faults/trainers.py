"""Every pod of the simulated cluster: it is scheduled, starts, works as its run's script says, and ends.

What truly happened to each attempt is kept: status is held against it at the end.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from lora_operator import naming
from lora_operator.naming import Stage
from lora_operator.planning.observed import PodView
from lora_trainer.contract import exits
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import Outcome, encode_outcome
from lora_trainer.contract.progress import Phase, Progress

from tests.builders import NAMESPACE, failed_text
from tests.fakes.apiserver import FakeApiServer
from tests.fakes.kubelet import Kubelet, Termination
from tests.fakes.store import Change
from tests.faults.scripts import SAVE_STEPS, TOTAL_STEPS, End, Script

Obj = dict[str, Any]
NO_PROGRESS = "NoProgress"
NODES = ("node-1", "node-2", "node-3", "node-4")
SIDECAR = "istio-proxy"
PATIENCE = 900
"""Seconds that the pods of an attempt wait for each other."""
SHARE_TAKEN = encode_outcome(Outcome(reason="Succeeded", message="This node took its share of every step."))
AttemptKey = tuple[str, str, int]
"""uid of the run, stage, number."""


def of_a_job(pod: Obj) -> bool:
    """Whether a Job made the pod. Others may have the same labels."""
    owners = pod["metadata"].get("ownerReferences", ())
    return any(owner.get("controller") and owner.get("kind") == "Job" for owner in owners)


def attempt_of(child: Obj) -> AttemptKey:
    """The attempt that a Job or pod belongs to."""
    labels = child["metadata"]["labels"]
    return labels[naming.RUN_UID_LABEL], labels[naming.STAGE_LABEL], int(labels[naming.ATTEMPT_LABEL])


@dataclass
class Work:
    """One pod at work."""

    pod: Obj
    stage: Stage
    end: End
    from_step: int = 0
    began: float | None = None
    """When it took up its work: several pods wait for each other."""
    peers: tuple[Work, ...] = ()
    """The other pods that it met."""
    over: bool = False
    done: bool = False
    """It ended well."""
    lost: bool = False
    """Its node is gone: nothing is heard of it any more."""
    beside: bool = False
    """A container that never ends by itself was injected into its pod."""

    @property
    def index(self) -> int:
        """Its number among the pods of its Job."""
        return int(self.pod["metadata"]["annotations"].get(naming.INDEX_ANNOTATION, 0))

    def step(self, now: float) -> int:
        """A step takes a second."""
        if self.began is None:
            return 0
        if self.end.stuck:
            return self.from_step + min(int(now - self.began), 3)
        return min(self.from_step + int(now - self.began), TOTAL_STEPS)


@dataclass
class Truth:
    """What happened to the attempts of all runs."""

    ends: defaultdict[AttemptKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Reasons that the record of an attempt may rightly give."""
    natural: defaultdict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    """By uid and stage: how pods ended by themselves, in order."""
    checkpoints: dict[str, int] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    """uids of runs that their user suspended."""
    disturbed: set[str] = field(default_factory=set)
    """uids of runs whose children people or nodes interfered with."""


@dataclass
class Trainers:
    """All pods."""

    server: FakeApiServer
    rng: Random
    script_of: Callable[[str], Script]
    """The script of a run, by its name."""
    truth: Truth = field(default_factory=Truth)
    working: dict[str, Work] = field(default_factory=dict)
    """By name of the pod."""
    injecting: bool = False
    """Whether a webhook injects a container into new pods."""
    _kubelet: Kubelet | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def kubelet(self) -> Kubelet:
        """Of every node."""
        assert self._kubelet is not None
        return self._kubelet

    def attach(self, kubelet: Kubelet) -> None:
        """From now on pods are played."""
        self._kubelet = kubelet
        kubelet.on_sigterm = self._sigterm
        self.server.store.listeners.append(self._on_change)

    def there(self, pod: Obj) -> Obj | None:
        """The pod as it is now, None when it is gone."""
        metadata = pod["metadata"]
        found = self.server.find("pods", metadata["name"], metadata["namespace"])
        return found if found is not None and found["metadata"]["uid"] == metadata["uid"] else None

    async def ask(self, view: PodView) -> bytes:
        """GET /progress. Raises aiohttp.ClientError."""
        await asyncio.sleep(self.rng.uniform(0.001, 0.02))
        work = self.working.get(view.name)
        if work is None or work.over or work.lost or self.rng.random() < 0.1:
            raise aiohttp.ClientConnectionError("no answer")
        now = asyncio.get_running_loop().time()
        progress = Progress(
            phase=Phase.TRAINING,
            step=work.step(now),
            total_steps=TOTAL_STEPS,
            loss=1.0,
            step_seconds=1.0 if work.end.stuck or work.step(now) < TOTAL_STEPS else None,
            resumed_from_step=work.from_step or None,
        )
        return json.dumps(progress.wire()).encode()

    def _on_change(self, change: Change) -> None:
        if change.key == "pods" and change.old is None and change.new is not None and of_a_job(change.new):
            self._spawn(self._play(change.new, injected=self.injecting))

    def _spawn(self, life: Any) -> None:
        task = asyncio.get_running_loop().create_task(life)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.server.crashes.append(RuntimeError(f"a simulated pod failed: {error!r}"))

    async def _play(self, pod: Obj, *, injected: bool) -> None:
        if injected:
            self.kubelet.inject(pod, SIDECAR)
        await asyncio.sleep(self.rng.uniform(0.5, 4))
        now = self.there(pod)
        if now is None or now["metadata"].get("deletionTimestamp") or now["status"]["phase"] != "Pending":
            return
        uid, stage, _ = attempt_of(pod)
        script = self.script_of(pod["metadata"]["labels"][naming.RUN_LABEL])
        work = Work(pod=pod, stage=Stage(stage), end=End(), beside=injected)
        work.end = script.end(work.stage, len(self.truth.natural[uid, stage]), index=work.index)
        self.working[pod["metadata"]["name"]] = work
        self.kubelet.start(pod, node=self.rng.choice(NODES), pod_ip=f"10.0.0.{len(self.working) % 250 + 1}")
        if await self._met(work):
            work.from_step = self.truth.checkpoints.get(uid, 0) if stage == Stage.TRAIN else 0
            work.began = asyncio.get_running_loop().time()
            self._spawn(self._heed_peers(work))
            await self._work(work)

    async def _met(self, work: Work) -> bool:
        """Whether all pods of the attempt are there; after a while one does not wait any longer."""
        nodes = self.nodes_of(work)
        for _ in range(PATIENCE):
            others = [other for other in self.working.values() if self._beside(other, work)]
            if len(others) == nodes - 1:
                work.peers = tuple(others)
                return True
            await asyncio.sleep(1)
            if work.over or work.lost or self.there(work.pod) is None:
                return False
        self._miss(work)
        return False

    def nodes_of(self, work: Work) -> int:
        """How many pods its Job has."""
        job = self.server.find("jobs", work.pod["metadata"]["ownerReferences"][0]["name"], NAMESPACE)
        return job["spec"]["completions"] if job is not None else 1

    def _beside(self, other: Work, work: Work) -> bool:
        owner = work.pod["metadata"]["ownerReferences"][0]["uid"]
        same = other.pod["metadata"]["ownerReferences"][0]["uid"] == owner and other.index != work.index
        return same and not (other.over or other.lost) and self.there(other.pod) is not None

    async def _heed_peers(self, work: Work) -> None:
        """One that goes away takes the others with it."""
        while work.peers and not (work.over or work.lost):
            await asyncio.sleep(self.rng.uniform(0.1, 3))
            if not all(other.done or self._beside(other, work) for other in work.peers):
                self._miss(work)

    def _miss(self, work: Work) -> None:
        if not (work.over or work.lost) and self.there(work.pod) is not None:
            text = failed_text(ExitCode.PeerLost, step=work.step(asyncio.get_running_loop().time()))
            self._terminate(work, code=int(ExitCode.PeerLost), text=text, reason=ExitCode.PeerLost.name)

    async def _work(self, work: Work) -> None:
        seconds = work.end.seconds
        if work.end.stuck:
            self.truth.ends[attempt_of(work.pod)].add(NO_PROGRESS)
        if work.stage is Stage.TRAIN and work.end.code == 0 and seconds is not None:
            seconds = TOTAL_STEPS - work.from_step + (5.0 if work.index == 0 else 1.0)
        if seconds is None:
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(seconds)
        if work.over or work.lost or self.there(work.pod) is None:
            return
        if work.index > 0 and work.end.code == 0:
            work.over = work.done = True
            self.kubelet.terminate(work.pod, exit_code=0, message=SHARE_TAKEN, others_run=self._others_run(work))
            return
        uid, stage, _ = attempt_of(work.pod)
        step = work.step(loop.time())
        self._save(work, step // SAVE_STEPS * SAVE_STEPS)
        text = work.end.text(work.stage, step=step, from_step=work.from_step)
        reason = _reason(work.end)
        self.truth.natural[uid, stage].append(reason)
        self._terminate(work, code=work.end.code, text=text, reason=reason, kubelet_reason=work.end.kubelet_reason)

    def _save(self, work: Work, step: int) -> None:
        uid = attempt_of(work.pod)[0]
        if work.stage is Stage.TRAIN:
            self.truth.checkpoints[uid] = max(step, self.truth.checkpoints.get(uid, 0))

    def _terminate(self, work: Work, *, code: int, text: str, reason: str, kubelet_reason: str = "") -> None:
        work.over, work.done = True, code == 0
        uid, stage, _ = attempt_of(work.pod)
        if work.end.stuck:
            self.truth.natural[uid, stage].append(NO_PROGRESS)
        self.truth.ends[attempt_of(work.pod)].add(reason)
        others_run = self._others_run(work)
        self.kubelet.terminate(work.pod, exit_code=code, message=text, reason=kubelet_reason, others_run=others_run)

    def _others_run(self, work: Work) -> bool:
        """Whether a sidecar runs on after the trainer. Of a pod that is deleted all containers are asked to stop."""
        pod = self.there(work.pod)
        return work.beside and pod is not None and "deletionTimestamp" not in pod["metadata"]

    def _sigterm(self, pod: Obj) -> Termination | None:
        work = self.working.get(pod["metadata"]["name"])
        if work is None:
            return None if of_a_job(pod) else Termination(exit_code=143)
        if work.over and work.beside:
            self.kubelet.end_others(pod)
        else:
            self._spawn(self._stop(work))
        return None

    def come_back(self, work: Work) -> None:
        """The node of a lost pod is heard of again; what should have ended ends now."""
        work.lost = False
        self._terminate(work, code=137, text="", reason=exits.reason(137))

    async def _stop(self, work: Work) -> None:
        """A train pod commits a checkpoint first; prepare just dies."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.rng.uniform(0.1, 20 if work.stage is Stage.TRAIN else 1))
        if work.over or work.lost or self.there(work.pod) is None:
            return
        if work.stage is Stage.PREPARE:
            self._terminate(work, code=143, text="", reason=exits.reason(143))
            return
        step = work.step(loop.time())
        together = [other for other in work.peers if not other.done]
        if not all(self._beside(other, work) for other in together):
            self._miss(work)
            return
        self._save(work, step)
        text = failed_text(ExitCode.Interrupted, step=step)
        for each in (work, *together):
            self._terminate(each, code=int(ExitCode.Interrupted), text=text, reason=ExitCode.Interrupted.name)


def _reason(end: End) -> str:
    if end.kubelet_reason == "OOMKilled":
        return "OutOfHostMemory"
    if end.code == 0 and end.bare:
        return "OutcomeMissing"
    return exits.reason(end.code)
