"""What the kubelet and Prometheus are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from tests.component.world import World, an_operator
from tests.fakes.faults import Fault
from tests.ports import free_port


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_probes_and_metrics(bare_world: World, kubeconfig: Path) -> None:
    port = free_port()
    async with an_operator(bare_world, kubeconfig, port=port), bare_world.kind_cluster():
        assert await fetch(port, "/healthz") == (200, "ok")
        assert await fetch(port, "/readyz") == (200, "ok")
        bare_world.apply()
        await bare_world.until("AdapterPublished")
        await bare_world.settle()
        status, text = await fetch(port, "/metrics")
    assert status == 200
    assert 'lora_operator_adapters_published_total{namespace="team-a"} 1.0' in text
    assert 'lora_operator_transitions_total{namespace="team-a",reason="AdapterPublished"} 1.0' in text
    assert 'lora_operator_api_requests_total{code="201",resource="jobs",verb="create"} 2.0' in text
    assert 'lora_operator_runs{namespace="team-a",reason="AdapterPublished"} 1.0' in text
    assert "lora_operator_queue_depth 0.0" in text


async def test_it_is_not_ready_before_it_has_seen_everything(bare_world: World, kubeconfig: Path) -> None:
    port = free_port()
    by_gateway = bare_world.server.faults.add(
        Fault(verb="list", when=lambda request: request.user_agent == "lora-operator", status=503, count=None)
    )
    async with an_operator(bare_world, kubeconfig, port=port):
        assert (await fetch(port, "/readyz"))[0] == 503
        bare_world.apply()
        await asyncio.sleep(0.2)
        assert bare_world.writes() == [], "nothing is decided from a half-filled cache"
        bare_world.server.faults.remove(by_gateway)
        await bare_world.until("Preparing")
        assert (await fetch(port, "/readyz"))[0] == 200


async def test_an_operator_that_does_not_act_counts_runs_and_has_no_queue(bare_world: World, kubeconfig: Path) -> None:
    ports = free_port(), free_port()
    async with an_operator(bare_world, kubeconfig, port=ports[0]):
        bare_world.apply()
        await bare_world.until("Preparing")
        async with an_operator(bare_world, kubeconfig, replicas=2, port=ports[1]):
            await bare_world.settle()
            first, second = [(await fetch(port, "/metrics"))[1] for port in ports]
    assert "lora_operator_leader 1.0" in first
    assert "lora_operator_leader 0.0" in second
    for text in (first, second):
        assert "lora_operator_queue_depth 0.0" in text
        assert 'lora_operator_runs{namespace="team-a",reason="Preparing"} 1.0' in text
