"""Real training on the real cluster: Unsloth, SmolLM2's weights, Spider's rows, a real S3 server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.runs import DEMO_CLASS, Body, Tenant, ready_reason, small_training, steps_done
from tests.demo import object_store
from tests.demo.environment import Environment

# Beyond all waits together: a wait that ends says where the run stands, this limit would not.
pytestmark = pytest.mark.timeout(2400)


def test_paused_run_ends_in_the_bytes_of_an_uninterrupted_one(environment: Environment, tenant: Tenant) -> None:
    spec = small_training(maxSteps=6)
    tenant.apply("whole", className=DEMO_CLASS, **spec)
    whole = tenant.wait_for("whole", "Complete", seconds=700)
    tenant.apply("paused", className=DEMO_CLASS, **spec)
    tenant.wait("paused", lambda run: steps_done(run) >= 1, "a first step", seconds=400)
    tenant.patch("paused", suspend=True)
    paused = tenant.wait_for("paused", "Suspended")
    assert 1 <= steps_done(paused) < spec["training"]["maxSteps"]
    tenant.patch("paused", suspend=False)
    paused = tenant.wait_for("paused", "Complete", seconds=700)
    assert paused["status"]["resumptions"] == 1
    assert paused["status"]["runDigest"] == whole["status"]["runDigest"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        assert adapter_sha256(store, paused) == adapter_sha256(store, whole)


def test_published_adapter_is_complete_and_proven(environment: Environment, tenant: Tenant) -> None:
    spec = small_training(maxSteps=2)
    spec["evaluation"]["samples"] = 1
    tenant.apply("run", className=DEMO_CLASS, **spec)
    run = tenant.wait_for("run", "Complete", seconds=700)
    status = run["status"]
    assert ready_reason(run) == "AdapterPublished"
    assert status["evaluation"]["loss"] < status["evaluation"]["baseLoss"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        uri = status["artifact"]["uri"]
        manifest = object_store.whole_adapter(store, uri)
        names = {file["path"] for file in manifest["files"]}
        config = object_store.read_json(store, f"{uri}/adapter_config.json")
        latest = object_store.read_json(store, f"s3://lora/{tenant.namespace}/run/latest.json")
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert config["base_model_name_or_path"] == spec["model"]["name"]
    assert manifest["verification"]["maxLogitDifference"] > 0
    assert uri in latest.values()
    # The same run once more: its adapter is there, so no accelerator is taken.
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "run")
    tenant.apply("run", className=DEMO_CLASS, **spec)
    again = tenant.wait_for("run", "Complete")
    assert ready_reason(again) == "AdapterReused"
    assert tenant.jobs("run", stage="train") == []
    assert again["status"]["artifact"] == status["artifact"]


def adapter_sha256(store: Any, run: Body) -> str:
    """sha256 of the published weights, as the manifest has it."""
    manifest = object_store.read_json(store, f"{run['status']['artifact']['uri']}/manifest.json")
    return next(file["sha256"] for file in manifest["files"] if file["path"] == "adapter_model.safetensors")
