"""Real training on the real cluster: Unsloth, SmolLM2's weights, Spider's rows, a real S3 server."""

from __future__ import annotations

from typing import Any

from tests.cluster.runs import (
    DEMO_CLASS,
    REAL_TRAINING,
    Body,
    Tenant,
    ready_reason,
    small_training,
    steps_done,
)
from tests.demo import object_store
from tests.demo.environment import MODEL_PREFIX, Environment


@REAL_TRAINING
def test_a_published_adapter_is_complete_proven_and_the_same_after_a_pause(
    environment: Environment, tenant: Tenant
) -> None:
    spec = small_training(maxSteps=6)
    spec["model"]["name"] = f"s3://lora/{MODEL_PREFIX}"
    spec["evaluation"]["samples"] = 1
    tenant.apply("whole", className=DEMO_CLASS, **spec)
    whole = tenant.wait_for_training("whole")
    assert ready_reason(whole) == "AdapterPublished"
    assert whole["status"]["evaluation"]["loss"] < whole["status"]["evaluation"]["baseLoss"]

    tenant.apply("paused", className=DEMO_CLASS, **spec)
    tenant.wait_for_progress("paused", lambda progress: progress.get("step", 0) >= 1)
    tenant.patch("paused", suspend=True)
    paused = tenant.wait_for("paused", "Suspended")
    assert 1 <= steps_done(paused) < spec["training"]["maxSteps"]
    tenant.patch("paused", suspend=False)
    paused = tenant.wait_for_training("paused")
    assert paused["status"]["resumptions"] == 1
    assert paused["status"]["runDigest"] == whole["status"]["runDigest"]

    uri = whole["status"]["artifact"]["uri"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        manifest = object_store.whole_adapter(store, uri)
        config = object_store.read_json(store, f"{uri}/adapter_config.json")
        latest = object_store.read_json(store, f"s3://lora/{tenant.namespace}/whole/latest.json")
        assert adapter_sha256(store, paused) == adapter_sha256(store, whole)
    names = {file["path"] for file in manifest["files"]}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert config["base_model_name_or_path"] == spec["model"]["name"]
    assert manifest["verification"]["maxLogitDifference"] > 0
    assert uri in latest.values()

    # The same run once more: its adapter is there, so no accelerator is taken.
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "whole")
    tenant.apply("whole", className=DEMO_CLASS, **spec)
    again = tenant.wait_for("whole", "Complete")
    assert ready_reason(again) == "AdapterReused"
    assert tenant.jobs("whole", stage="train") == []
    assert again["status"]["artifact"] == whole["status"]["artifact"]


def adapter_sha256(store: Any, run: Body) -> str:
    """sha256 of the published weights, as the manifest has it."""
    manifest = object_store.read_json(store, f"{run['status']['artifact']['uri']}/manifest.json")
    return next(file["sha256"] for file in manifest["files"] if file["path"] == "adapter_model.safetensors")
