"""The headless Service of a run on several nodes, which gives its train pods DNS names."""

from __future__ import annotations

from typing import Any

from lora_trainer.contract.run import RENDEZVOUS_PORT

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.naming import RUN_UID_LABEL, STAGE_LABEL, Stage, service_name
from lora_operator.workloads.metadata import child_metadata


def headless_service(run: LoraFineTune) -> dict[str, Any]:
    """The Service, one for all attempts: the names of their pods differ."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(run, name=service_name(run.name)),
        "spec": {
            "clusterIP": "None",
            # The pods connect to each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {RUN_UID_LABEL: run.uid, STAGE_LABEL: Stage.TRAIN.value},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }
