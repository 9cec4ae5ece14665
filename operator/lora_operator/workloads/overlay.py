"""Adds what the class sets for its pods. It replaces nothing that the operator sets: the class's schema refuses those
names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lora_operator.api.pod_overlay import Scheduling, Volume
from lora_operator.workloads.draft import Entry, PodDraft, StageRequest


def scheduling(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the class's scheduling fields of the stage."""
    wire = request.of_stage.model_dump(
        mode="json", by_alias=True, exclude_unset=True, include=set(Scheduling.model_fields)
    )
    return replace(draft, placement={**draft.placement, **wire})


def overlay(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add what the class sets for all pods."""
    pod = request.resolved.class_spec.pod
    added = draft.plus(
        env=tuple(variable.wire() for variable in pod.env),
        volumes=tuple(_volume(volume) for volume in pod.volumes),
        mounts=tuple(_mount(volume) for volume in pod.volumes),
    )
    secrets = [secret.wire() for secret in pod.image_pull_secrets]
    return replace(
        added,
        labels={**draft.labels, **(pod.labels or {})},
        annotations={**draft.annotations, **(pod.annotations or {})},
        service_account=pod.service_account_name or draft.service_account,
        placement={**draft.placement, **({"imagePullSecrets": secrets} if secrets else {})},
    )


def _volume(volume: Volume) -> Entry:
    sources: dict[str, Any] = {
        "persistentVolumeClaim": volume.persistent_volume_claim,
        "configMap": volume.config_map,
        "secret": volume.secret,
    }
    return {"name": _name(volume)} | {kind: source.wire() for kind, source in sources.items() if source is not None}


def _mount(volume: Volume) -> Entry:
    return {"name": _name(volume), "mountPath": volume.mount_path, "readOnly": volume.read_only}


def _name(volume: Volume) -> str:
    """Name of the pod's volume. The operator's own volumes have no such prefix."""
    return f"class-{volume.name}"
