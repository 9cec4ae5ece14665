"""Metadata that every child of a run carries: labels to find it by and the owner that garbage collection follows."""

from __future__ import annotations

from typing import Any

from lora_operator.api.lorafinetune import LoraFineTune
from lora_operator.naming import API_VERSION, MANAGED_BY, MANAGED_BY_LABEL, RUN_KIND, RUN_LABEL, RUN_UID_LABEL


def child_labels(run: LoraFineTune) -> dict[str, str]:
    """Labels of all children of the run."""
    return {MANAGED_BY_LABEL: MANAGED_BY, RUN_LABEL: run.name, RUN_UID_LABEL: run.uid}


def child_metadata(run: LoraFineTune, *, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """metadata of a child. Deleting the run deletes the child, even without the operator."""
    return {
        "name": name,
        "namespace": run.namespace,
        "labels": child_labels(run) | (labels or {}),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": RUN_KIND,
                "name": run.name,
                "uid": run.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
