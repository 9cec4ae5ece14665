"""Real training on the real cluster: Unsloth, SmolLM2's weights, Spider's rows, a real S3 server."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.cluster.runs import Body, Tenant, ready_reason
from tests.demo import object_store
from tests.demo.environment import Environment

STEPS = 6
SPEC: dict[str, Any] = {
    "model": {"name": "s3://lora/models/SmolLM2-135M-Instruct", "maxSeqLength": 512},
    "dataset": {"uri": "s3://lora/datasets/text-to-sql/train.jsonl"},
    "lora": {"r": 8, "loraDropout": 0.1},
    "training": {"maxSteps": STEPS, "perDeviceTrainBatchSize": 1, "gradientAccumulationSteps": 4, "warmupRatio": 0},
    "evaluation": {"datasetUri": "s3://lora/datasets/text-to-sql/eval.jsonl", "maxRows": 8, "samples": 1},
}


def test_paused_run_ends_in_the_bytes_of_an_uninterrupted_one(environment: Environment, tenant: Tenant) -> None:
    tenant.apply("whole", className="cpu-demo", **SPEC)
    whole = tenant.wait_for("whole", "Complete", seconds=700)
    tenant.apply("paused", className="cpu-demo", **SPEC)
    tenant.wait("paused", lambda run: steps_done(run) >= 1, "a first step", seconds=400)
    tenant.patch("paused", suspend=True)
    paused = tenant.wait_for("paused", "Suspended", seconds=90)
    assert 1 <= steps_done(paused) < STEPS
    tenant.patch("paused", suspend=False)
    paused = tenant.wait_for("paused", "Complete", seconds=700)
    assert paused["status"]["resumptions"] == 1
    assert paused["status"]["runDigest"] == whole["status"]["runDigest"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        assert adapter_sha256(store, paused) == adapter_sha256(store, whole)


def test_published_adapter_is_complete_and_proven(environment: Environment, tenant: Tenant) -> None:
    tenant.apply("run", className="cpu-demo", **SPEC | {"training": SPEC["training"] | {"maxSteps": 2}})
    run = tenant.wait_for("run", "Complete", seconds=700)
    status = run["status"]
    assert ready_reason(run) == "AdapterPublished"
    assert status["evaluation"]["loss"] < status["evaluation"]["baseLoss"]
    with object_store.bucket(environment.kubectl, environment.account) as store:
        uri = status["artifact"]["uri"]
        manifest = object_store.read_json(store, f"{uri}/manifest.json")
        for file in manifest["files"]:
            data = bytes(store.get(f"{path_of(uri)}/{file['path']}").bytes())
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
        names = {file["path"] for file in manifest["files"]}
        config = object_store.read_json(store, f"{uri}/adapter_config.json")
        latest = object_store.read_json(store, f"s3://lora/{tenant.namespace}/run/latest.json")
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert config["base_model_name_or_path"] == SPEC["model"]["name"]
    assert manifest["verification"]["maxLogitDifference"] > 0
    assert uri in latest.values()
    # The same run once more: its adapter is there, so no accelerator is taken.
    tenant.kubectl("-n", tenant.namespace, "delete", "lorafinetune", "run")
    tenant.apply("run", className="cpu-demo", **SPEC | {"training": SPEC["training"] | {"maxSteps": 2}})
    again = tenant.wait_for("run", "Complete", seconds=120)
    assert ready_reason(again) == "AdapterReused"
    assert tenant.jobs("run", stage="train") == []
    assert again["status"]["artifact"] == status["artifact"]


def steps_done(run: Body) -> int:
    """Optimizer steps that status tells of."""
    return run["status"].get("progress", {}).get("step", 0)


def path_of(uri: str) -> str:
    """Path inside the bucket."""
    return uri.split("/", 3)[3]


def adapter_sha256(store: Any, run: Body) -> str:
    """sha256 of the published weights, as the manifest has it."""
    manifest = object_store.read_json(store, f"{run['status']['artifact']['uri']}/manifest.json")
    return next(file["sha256"] for file in manifest["files"] if file["path"] == "adapter_model.safetensors")
