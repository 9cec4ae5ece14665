"""Waits for the CRDs of this operator's version: an operator may be upgraded before them."""

from __future__ import annotations

import asyncio
import logging

from lora_operator import naming
from lora_operator.kube.errors import KubeError
from lora_operator.kube.gateway import CLASSES, RUNS, Gateway

RECHECK_SECONDS = 2.0

log = logging.getLogger(__name__)


async def wait_until_served(gateway: Gateway) -> None:
    """Return once the API server serves runs and classes in this version. Meanwhile an older operator may act."""
    told = False
    while not await _served(gateway):
        if not told:
            log.warning(
                "The API server does not serve %s. Apply the CRDs of this release: kubectl apply --server-side -k "
                "manifests/crd",
                naming.API_VERSION,
            )
        told = True
        await asyncio.sleep(RECHECK_SECONDS)


async def _served(gateway: Gateway) -> bool:
    try:
        return await gateway.serves(RUNS) and await gateway.serves(CLASSES)
    except KubeError as problem:
        log.warning("the API server does not say what it serves", extra={"error": str(problem)})
        return False
