"""Real training on the real cluster: Unsloth, SmolLM2's weights, Spider's rows, a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cluster.runs import REAL_TRAINING, TRAINING_CLASS, Body, Tenant, ready_reason, small_training
from tests.demo import object_store
from tests.demo.environment import Environment

pytestmark = REAL_TRAINING
STEPS = 60
"""More than are taken in the seconds between a first step and the end of a pod that is to be suspended."""
SPEC = small_training(maxSteps=STEPS, gradientAccumulationSteps=1)
SPEC["evaluation"]["samples"] = 1


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that nothing interrupted, complete, and its namespace."""

    tenant: Tenant
    run: Body


@pytest.fixture(scope="module")
def trained(environment: Environment) -> Iterator[Trained]:
    tenant = Tenant.fresh(environment.kubectl)
    tenant.create(environment.account)
    tenant.apply("whole", className=TRAINING_CLASS, **SPEC)
    yield Trained(tenant=tenant, run=tenant.wait_for_training("whole"))
    tenant.delete()


def test_a_published_adapter_is_complete_and_proven(environment: Environment, trained: Trained) -> None:
    status = trained.run["status"]
    assert ready_reason(trained.run) == "AdapterPublished"
    assert status["evaluation"]["loss"] < status["evaluation"]["baseLoss"]
    uri = status["artifact"]["uri"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        manifest = object_store.whole_adapter(store, uri)
        config = object_store.read_json(store, f"{uri}/adapter_config.json")
        latest = object_store.read_json(store, f"s3://lora/{trained.tenant.namespace}/whole/latest.json")
    names = {file["path"] for file in manifest["files"]}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert config["base_model_name_or_path"] == SPEC["model"]["name"]
    assert manifest["verification"]["maxLogitDifference"] > 0
    assert uri in latest.values()


def test_a_paused_run_ends_in_the_bytes_of_an_uninterrupted_one(environment: Environment, trained: Trained) -> None:
    tenant = trained.tenant
    tenant.apply("paused", className=TRAINING_CLASS, **SPEC)
    tenant.wait_for_progress("paused", lambda progress: progress.get("step", 0) >= 1, "a first step")
    tenant.patch("paused", suspend=True)
    tenant.wait_for("paused", "Suspended")
    tenant.patch("paused", suspend=False)
    paused = tenant.wait_for_training("paused")
    assert paused["status"]["resumptions"] == 1
    assert 1 <= paused["status"]["attempts"][-1]["fromStep"] < STEPS
    assert paused["status"]["runDigest"] == trained.run["status"]["runDigest"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        assert adapter_sha256(store, paused) == adapter_sha256(store, trained.run)


def test_the_same_run_once_more_takes_no_accelerator(trained: Trained) -> None:
    tenant = trained.tenant
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "whole")
    tenant.apply("whole", className=TRAINING_CLASS, **SPEC)
    again = tenant.wait_for("whole", "Ready")
    assert ready_reason(again) == "AdapterReused"
    assert tenant.jobs("whole", stage="train") == []
    assert again["status"]["artifact"] == trained.run["status"]["artifact"]


def adapter_sha256(store: Any, run: Body) -> str:
    """sha256 of the published weights, as the manifest has it."""
    manifest = object_store.read_json(store, f"{run['status']['artifact']['uri']}/manifest.json")
    return next(file["sha256"] for file in manifest["files"] if file["path"] == "adapter_model.safetensors")
