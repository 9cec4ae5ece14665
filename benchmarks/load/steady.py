"""Runs train and tell of their progress: what does watching them cost?

The node and its pods are KWOK's; prepare pods end well at once, train pods run for ever. Every train pod has the
address of this machine, where one server answers for all of them with a step that advances.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from lora_operator import naming
from lora_operator.api.reasons import Reason
from lora_trainer.contract.progress import PATH, PORT, Phase, Progress

from tests.builders import prepared_text
from tests.cluster import toolchain
from tests.cluster.api import Api
from tests.cluster.settings import NODE_ADDRESS, Paths
from tests.demo.kubectl import Kubectl

from . import ours
from .finished import active_runs
from .programs import KWOK, source_of
from .usage import usage

Body = dict[str, Any]

NODE = "load-node"
_FAKE = "kwok.x-k8s.io/node"
_NODE_STAGES = ("fast/node-initialize.yaml", "heartbeat-with-lease/node-heartbeat-with-lease.yaml")
"""KWOK's own, for the node itself."""
STEP_SECONDS = 1.0
MEASURE_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Steady:
    """What watching took."""

    runs: int
    cores: float
    """Processor seconds by the second."""
    status_writes_per_second: float
    memory_mib: float


async def steady(api: Api, kubectl: Kubectl, *, runs: int, session: aiohttp.ClientSession) -> Steady:
    """Have so many runs train, and measure. KWOK runs meanwhile (see `fake_node`)."""
    async with _progress_server():
        await api.create_all(active_runs(runs))
        address, pid = ours.address(kubectl), ours.pid(kubectl)
        await ours.until_told(session, address, runs=runs, reason=Reason.TRAINING)
        await asyncio.sleep(30)  # the last ones' first figures are written
        before, writes = usage(pid), await _status_writes(session, address)
        began = time.monotonic()
        await asyncio.sleep(MEASURE_SECONDS)
        seconds = time.monotonic() - began
        after, later = usage(pid), await _status_writes(session, address)
    return Steady(
        runs=runs,
        cores=(after.cpu_seconds - before.cpu_seconds) / seconds,
        status_writes_per_second=(later - writes) / seconds,
        memory_mib=after.memory_mib,
    )


async def _status_writes(session: aiohttp.ClientSession, address: str) -> int:
    return (await ours.metrics(session, address)).requests["patch", naming.RUN_PLURAL]


@asynccontextmanager
async def _progress_server() -> AsyncIterator[None]:
    began = time.monotonic()

    async def answer(_: web.Request) -> web.Response:
        step = 1 + int((time.monotonic() - began) / STEP_SECONDS)
        told = Progress(
            phase=Phase.TRAINING,
            step=step,
            total_steps=100_000,
            epoch=step / 1000,
            loss=round(2 + 1 / step, 4),
            learning_rate=2e-4,
            tokens_per_second=15_000.0,
            step_seconds=STEP_SECONDS,
            eta_seconds=round((100_000 - step) * STEP_SECONDS),
        )
        return web.json_response(told.wire())

    app = web.Application()
    app.add_routes([web.get(PATH, answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, NODE_ADDRESS, PORT).start()
        yield
    finally:
        await runner.cleanup()


# --- KWOK ---------------------------------------------------------------------------------------------------------


@contextmanager
def fake_node(kubectl: Kubectl, *, paths: Paths, report: Callable[[str], None], logs: Path) -> Iterator[None]:
    """A node of KWOK's with room for every pod."""
    program = toolchain.build(paths=paths, report=report, modules=(KWOK,))["kwok"]
    config = logs / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(_stages()))
    upstream = source_of(KWOK, "sigs.k8s.io/kwok") / "kustomize/stage/node"
    command = [
        str(program),
        f"--kubeconfig={kubectl.kubeconfig}",
        *(f"--config={file}" for file in (config, *(upstream / name for name in _NODE_STAGES))),
        "--manage-all-nodes=false",
        f"--manage-nodes-with-annotation-selector={_FAKE}=fake",
        "--node-lease-duration-seconds=40",
    ]
    with (logs / "kwok.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            kubectl.apply(_node())
            yield
        finally:
            kubectl("delete", "node", NODE, "--ignore-not-found")
            process.terminate()
            process.wait(timeout=20)


def _node() -> Body:
    room = {"cpu": "10000000", "memory": "100Ti", "pods": "100000", "ephemeral-storage": "100Ti"}
    metadata = {"name": NODE, "annotations": {_FAKE: "fake"}, "labels": {"kubernetes.io/hostname": NODE}}
    status = {"allocatable": room, "capacity": room}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


def _stages() -> list[Body]:
    """How pods of the fake node go on."""
    running = {"running": {"startedAt": "{{ Now }}"}}
    ended = {
        "exitCode": 0,
        "reason": "Completed",
        "startedAt": "{{ Now }}",
        "finishedAt": "{{ Now }}",
        "message": prepared_text(),
    }
    return [
        _stage(
            "train-runs",
            selector=(_stage_is(naming.Stage.TRAIN), _phase_is("Pending"), _deletion("DoesNotExist")),
            status={"phase": "Running", "podIP": NODE_ADDRESS, "startTime": "{{ Now }}"} | _container(running),
        ),
        _stage(
            "prepare-ends",
            selector=(_stage_is(naming.Stage.PREPARE), _phase_is("Pending"), _deletion("DoesNotExist")),
            status={"phase": "Succeeded", "startTime": "{{ Now }}"} | _container({"terminated": ended}),
        ),
        _stage("deleted", selector=(_deletion("Exists"),), status=None),
    ]


def _stage(name: str, *, selector: tuple[Body, ...], status: Body | None) -> Body:
    then = {"delete": True} if status is None else {"statusTemplate": json.dumps(status)}
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": list(selector)},
            "next": then,
        },
    }


def _container(state: Body) -> Body:
    ready = {"name": "trainer", "image": "localhost/none", "imageID": "", "ready": False, "restartCount": 0}
    return {"containerStatuses": [ready | {"state": state}]}


def _stage_is(stage: naming.Stage) -> Body:
    return {"key": f'.metadata.labels["{naming.STAGE_LABEL}"]', "operator": "In", "values": [stage.value]}


def _phase_is(phase: str) -> Body:
    return {"key": ".status.phase", "operator": "In", "values": [phase]}


def _deletion(operator: str) -> Body:
    return {"key": ".metadata.deletionTimestamp", "operator": operator}
