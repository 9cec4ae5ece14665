"""An operator waits for the CRDs of its version."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest
from lora_operator import naming
from lora_operator.engine import served
from lora_operator.engine.served import wait_until_served
from lora_operator.kube.errors import Unavailable
from lora_operator.kube.gateway import CLASSES, RUNS, Gateway, Resource


class ApiServer:
    """Stands in for a gateway to an API server that is upgraded meanwhile."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[Resource] = []

    async def serves(self, resource: Resource) -> bool:
        self.asked.append(resource)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_waits_through_outages_and_says_once_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served, "RECHECK_SECONDS", 0)
    server = ApiServer(Unavailable("no answer", status=0), False, True, False, True, True)
    caplog.set_level(logging.WARNING)
    await asyncio.wait_for(wait_until_served(cast(Gateway, server)), timeout=5)
    assert server.answers == []
    assert server.asked[-2:] == [RUNS, CLASSES]
    told = [record.getMessage() for record in caplog.records if naming.API_VERSION in record.getMessage()]
    assert len(told) == 1
    assert "kubectl apply --server-side -k manifests/crd" in told[0]
