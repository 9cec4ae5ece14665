"""LoraFineTunes on the real cluster, as a test handles them."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from lora_operator import naming
from lora_trainer.contract.progress import PORT

from tests import kstatus
from tests.demo.environment import MANIFESTS
from tests.demo.kubectl import PATIENCE, Kubectl, KubectlError
from tests.demo.live import condition, is_true
from tests.demo.object_store import Account

Body = dict[str, Any]

SCRIPTED_CLASS = "scripted"
"""The class whose trainer plays scenarios."""
DEMO_CLASS = "cpu-demo"
"""The class whose trainer trains."""
TRAINING_CLASS = "cpu-small"
"""The same with train pods that ask for less."""
SCRIPTED_IMAGE = "localhost/lora-operator/scripted-trainer:dev"
TRAINING_PATIENCE = 1800.0
"""Seconds that a real training may take. It computes for one to three minutes, but the node may have room for one
at a time, and all tests share its processors."""
REAL_TRAINING = pytest.mark.timeout(2 * TRAINING_PATIENCE)
"""A test that trains: beyond its waits, which say where the run stands when they end."""
FIRST_LAYERS_PREFIX = "models/SmolLM2-135M-Instruct-first-layers"
"""Where the bucket has the model of tests/support/first_layers.py."""
TENANT_PREFIX = "test-"
"""What the name of each test's namespace begins with."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def scripted_class() -> Body:
    """The demo's class with the scripted trainer."""
    # Requests are shares where processors are short: with a fiftieth of a training's, Python alone starts for a minute.
    small = {"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}, "scratch": "1Gi"}
    changes = {"image": SCRIPTED_IMAGE, "prepare": small, "train": small, "terminationGracePeriodSeconds": 30}
    return _like_the_demo_s(SCRIPTED_CLASS, **changes)


def training_class() -> Body:
    """The demo's class for train pods that all find room at once, and the scripted trainer's beside them."""
    train = {"resources": {"requests": {"cpu": "150m", "memory": "3Gi"}}, "scratch": "8Gi"}
    return _like_the_demo_s(TRAINING_CLASS, train=train)


def _like_the_demo_s(name: str, **changes: Any) -> Body:
    body = yaml.safe_load((MANIFESTS / "demo/class.yaml").read_text())
    return body | {"metadata": {"name": name}, "spec": body["spec"] | changes}


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One namespace and the runs in it."""

    kubectl: Kubectl
    namespace: str
    _seen: dict[str, Body] = field(default_factory=dict, init=False)
    """The status of each run, by uid, as it was last seen."""

    @classmethod
    def fresh(cls, kubectl: Kubectl) -> Tenant:
        """A tenant whose namespace does not exist yet."""
        return cls(kubectl=kubectl, namespace=f"{TENANT_PREFIX}{uuid.uuid4().hex[:8]}")

    def create(self, account: Account) -> None:
        """Make the namespace, restricted, with the account's Secret."""
        metadata = {"name": self.namespace, "labels": RESTRICTED}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl.rest.apply(self._namespace, namespace)
        secret = account.as_secret(self.namespace)
        self.kubectl.rest.apply(f"{self._namespace}/secrets/{secret['metadata']['name']}", secret)

    def delete(self) -> None:
        """Have the namespace removed."""
        self.kubectl.rest.delete(self._namespace)

    @property
    def _namespace(self) -> str:
        """Path of the namespace, and of the core objects in it."""
        return f"/api/v1/namespaces/{self.namespace}"

    def run_path(self, name: str) -> str:
        """Path of a run on the API server."""
        return f"/apis/{naming.API_VERSION}/namespaces/{self.namespace}/{naming.RUN_PLURAL}/{name}"

    def apply(self, name: str, **spec: Any) -> Body:
        """Apply a run; what is not given is what the scripted class needs."""
        self.kubectl.apply(self._body(name, spec))
        return self.run(name)

    def play(self, name: str, scenario: str, *, class_name: str = SCRIPTED_CLASS, **spec: Any) -> Body:
        """Apply a run that plays a scenario of the scripted trainer."""
        self.kubectl.apply(self.body(name, scenario, class_name=class_name, **spec))
        return self.run(name)

    def body(self, name: str, scenario: str, *, class_name: str = SCRIPTED_CLASS, **spec: Any) -> Body:
        """What `play` applies."""
        return self._body(name, {"className": class_name, "dataset": {"uri": f"s3://lora/scripted/{scenario}"}} | spec)

    def _body(self, name: str, spec: Body) -> Body:
        defaults: Body = {
            "model": {"name": "s3://lora/models/SmolLM2-135M-Instruct"},
            "dataset": {"uri": "s3://lora/scripted/ok"},
            "output": {"uri": f"s3://lora/{self.namespace}/{name}"},
        }
        metadata = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": "lora-operator.io/v1beta1", "kind": "LoraFineTune", "metadata": metadata}
        return body | {"spec": defaults | spec}

    @contextmanager
    def own_class(self, *, like: str = SCRIPTED_CLASS, storage: Body | None = None, **spec: Any) -> Iterator[str]:
        """The name of a class of this tenant's own, which differs from another in these fields."""
        make_class(self.kubectl, self.namespace, like=like, storage=storage, **spec)
        try:
            yield self.namespace
        finally:
            self.kubectl("delete", "lorafinetuneclass", self.namespace)

    def patch(self, name: str, **spec: Any) -> None:
        """Change fields of the spec."""
        body = {"spec": spec}
        self.kubectl("-n", self.namespace, "patch", "lorafinetune", name, "--type=merge", "-p", json.dumps(body))

    def run(self, name: str) -> Body:
        """The run as it stands. Raises AssertionError where readers of its status would stumble."""
        body = self.kubectl.rest.get(self.run_path(name))
        if body is None:
            raise KubectlError(f"There is no run {name} in {self.namespace}.")
        before = self._seen.get(body["metadata"]["uid"], {})
        now = self._seen[body["metadata"]["uid"]] = body["status"]
        assert kstatus.breaches(now, generation=body["metadata"]["generation"]) == []
        assert kstatus.regressions(before, now, sampled=True) == []
        return body

    def jobs(self, name: str, *, stage: str | None = None) -> list[Body]:
        """The run's Jobs."""
        return self._of_run(f"/apis/batch/v1/namespaces/{self.namespace}/jobs", name, stage)

    def pods(self, name: str, *, stage: str | None = None) -> list[Body]:
        """The run's pods."""
        return self._of_run(f"{self._namespace}/pods", name, stage)

    def _of_run(self, path: str, name: str, stage: str | None) -> list[Body]:
        selector = f"lora-operator.io/run={name}" + (f",lora-operator.io/stage={stage}" if stage else "")
        return self._list(path, labelSelector=selector)

    def _list(self, path: str, **query: str) -> list[Body]:
        found = self.kubectl.rest.get(path, **query)
        assert found is not None
        return found["items"]

    def evict(self, pod: Body) -> None:
        """Have a pod evicted by the API, as a drain does."""
        metadata = {"name": pod["metadata"]["name"], "namespace": self.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{metadata['name']}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    def config_map(self, name: str) -> Body | None:
        """The run's ConfigMap, where there is one. The run may be gone."""
        found = self._list(f"{self._namespace}/configmaps", labelSelector=f"{naming.RUN_LABEL}={name}")
        return next(iter(found), None)

    def config_map_name(self, name: str) -> str:
        """What it is called."""
        return naming.config_map_name(name, self.run(name)["metadata"]["uid"])

    def told(self, name: str, *, until: str, seconds: float = PATIENCE) -> list[str]:
        """Reasons of the run's Events, oldest first, once `until` is among them: an Event follows its status write."""
        selector = f"involvedObject.name={name},involvedObject.kind=LoraFineTune"
        deadline = time.monotonic() + seconds
        while True:
            items = self._list(f"{self._namespace}/events", fieldSelector=selector)
            reasons = [item["reason"] for item in sorted(items, key=_event_order)]
            if until in reasons:
                return reasons
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: waited for the Event {until}, but there are only {reasons}")
            time.sleep(0.3)

    def wait_for_reason(self, name: str, *reasons: str, seconds: float = PATIENCE) -> Body:
        """Wait until Ready has one of the reasons. Raises AssertionError with what was seen instead."""
        return self.wait(name, lambda run: ready_reason(run) in reasons, f"Ready reason {reasons}", seconds=seconds)

    def wait_for(self, name: str, kind: str, *, seconds: float = PATIENCE) -> Body:
        """Wait until the condition is True."""
        return self.wait(name, lambda run: is_true(run, kind), f"{kind}=True", seconds=seconds)

    def wait_for_training(self, name: str) -> Body:
        """Wait until a real training is complete."""
        return self.wait_for(name, "Ready", seconds=TRAINING_PATIENCE)

    def wait_for_progress(self, name: str, reached: Callable[[Body], bool], what: str, *, attempt: int = 1) -> Body:
        """What a train pod of an attempt says itself, once it is so: status follows every ten seconds only, in which a
        small training may end."""
        found: list[Body] = []

        def ask(_: Body) -> bool:
            found.extend(filter(reached, self._progress(name, attempt=attempt)))
            return bool(found)

        self.wait(name, ask, what, seconds=TRAINING_PATIENCE)
        return found[0]

    def _progress(self, name: str, *, attempt: int) -> Iterator[Body]:
        """What the train pods of an attempt say, as far as they answer."""
        for pod in self.pods(name, stage="train"):
            address = pod["status"].get("podIP")
            if address and pod["metadata"]["labels"]["lora-operator.io/attempt"] == str(attempt):
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"http://{address}:{PORT}/progress", timeout=5) as answer,
                ):
                    yield json.load(answer)

    def wait(self, name: str, ready: Callable[[Body], bool], what: str, *, seconds: float = PATIENCE) -> Body:
        """Wait until the run is so; a run that ends otherwise is not waited for any longer."""
        deadline = time.monotonic() + seconds
        while True:
            run = self.run(name)
            if ready(run):
                return run
            if _ended(run) or time.monotonic() > deadline:
                raise AssertionError(f"{name}: waited for {what}, but it stands at {condition(run, 'Ready')}")
            time.sleep(0.3)


def make_class(kubectl: Kubectl, name: str, *, like: str, storage: Body | None = None, **spec: Any) -> None:
    """A class that differs from another in these fields of its spec, and of spec.storage."""
    body = kubectl.get("lorafinetuneclass", like)
    changed = body["spec"] | spec | {"storage": body["spec"]["storage"] | (storage or {})}
    metadata = {"name": name}
    kubectl.apply({"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "spec": changed})


def ready_reason(run: Body) -> str | None:
    """Reason of Ready."""
    return (condition(run, "Ready") or {}).get("reason")


def ready_message(run: Body) -> str:
    """Message of Ready."""
    return (condition(run, "Ready") or {}).get("message", "")


def steps_done(run: Body) -> int:
    """Optimizer steps that status tells of."""
    return run["status"].get("progress", {}).get("step", 0)


def _ended(run: Body) -> bool:
    return is_true(run, "Finished")


def _event_order(event: Body) -> tuple[str, int]:
    return event["metadata"]["creationTimestamp"], int(event["metadata"]["resourceVersion"])


def small_training(**training: Any) -> Body:
    """The spec of a real training of a few steps, on the model's first layers; what is given replaces fields of
    spec.training."""
    defaults = {"maxSteps": 6, "perDeviceTrainBatchSize": 1, "gradientAccumulationSteps": 4, "warmupRatio": 0}
    return {
        "model": {"name": f"s3://lora/{FIRST_LAYERS_PREFIX}", "maxSeqLength": 512},
        "dataset": {"uri": "s3://lora/datasets/text-to-sql/train.jsonl"},
        "lora": {"r": 8, "loraDropout": 0.1},
        "training": defaults | training,
        "evaluation": {"dataset": {"uri": "s3://lora/datasets/text-to-sql/eval.jsonl"}, "maxRows": 8, "samples": 0},
    }
