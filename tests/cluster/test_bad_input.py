"""Bad input on the real cluster, with the real trainer: each is named, with a remedy, before a GPU would be taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.refusals import first_refusal, refusal_of
from tests.cluster.runs import DEMO_CLASS, Tenant, make_class, ready_message, ready_reason
from tests.demo import object_store
from tests.demo.environment import Environment
from tests.demo.live import is_true
from tests.demo.object_store import Account

FOLDER = "bad-input"
TEXT_ROW = json.dumps({"text": "The quick brown fox jumps over the lazy dog. " * 20})
CHAT_ROW = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
SILENT_ROW = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]})
FILES = {
    "empty.jsonl": "",
    "not-json.jsonl": f"{TEXT_ROW}\n{TEXT_ROW}\nthis is not JSON\n",
    "columns.jsonl": '{"question": "a", "reply": "b"}\n',
    "long.jsonl": f"{TEXT_ROW}\n" * 3,
    "chat.jsonl": f"{CHAT_ROW}\n" * 3,
    "silent.jsonl": f"{SILENT_ROW}\n" * 3,
    "model-without-config/tokenizer.json": "{}",
}
LLAMA_TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>{{ m['content'] }}<|eot_id|>{% endfor %}"
)
MODEL = {"name": "s3://lora/models/SmolLM2-135M-Instruct", "maxSeqLength": 1024}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run with one thing wrong, and what must be said of it."""

    reason: str
    says: tuple[str, ...]
    rows: str = "chat.jsonl"
    spec: dict[str, Any] = field(default_factory=dict)
    class_name: str = DEMO_CLASS

    def apply(self, tenant: Tenant, name: str) -> None:
        """Apply the run."""
        dataset = {"uri": f"s3://lora/{FOLDER}/{self.rows}"} | self.spec.get("dataset", {})
        spec = {"model": MODEL} | self.spec | {"dataset": dataset}
        tenant.apply(name, className=self.class_name, **spec)


CASES = {
    "rows-missing": Case(reason="DatasetNotFound", says=("nothing.jsonl",), rows="nothing.jsonl"),
    "rows-empty": Case(reason="DatasetInvalid", says=("empty.jsonl",), rows="empty.jsonl"),
    "rows-not-json": Case(reason="DatasetInvalid", says=("not-json.jsonl", "3"), rows="not-json.jsonl"),
    "rows-without-columns": Case(reason="DatasetInvalid", says=("question", "reply"), rows="columns.jsonl"),
    "rows-too-long": Case(
        reason="DatasetInvalid",
        says=("maxSeqLength", "64"),
        rows="long.jsonl",
        spec={"model": MODEL | {"maxSeqLength": 64}},
    ),
    "rows-all-masked": Case(reason="DatasetInvalid", says=("counts in the loss",), rows="silent.jsonl"),
    "template-foreign": Case(
        reason="ChatTemplateInvalid",
        says=("<|start_header_id|>",),
        spec={"dataset": {"chatTemplate": {"jinja": LLAMA_TEMPLATE}}},
    ),
    "model-missing": Case(
        reason="ModelNotFound", says=("s3://lora/models/nowhere",), spec={"model": {"name": "s3://lora/models/nowhere"}}
    ),
    "model-without-config": Case(
        reason="ModelUnsupported",
        says=("config.json",),
        spec={"model": {"name": f"s3://lora/{FOLDER}/model-without-config"}},
    ),
    "keys-wrong": Case(reason="StorageDenied", says=("AWS_SECRET_ACCESS_KEY",), class_name="wrong-keys"),
    "bucket-read-only": Case(
        reason="StorageDenied", says=("read-only",), class_name="reader", spec={"output": {"uri": "s3://read-only/out"}}
    ),
}


@pytest.fixture(scope="module")
def bad_runs(environment: Environment) -> Iterator[Tenant]:
    """All cases at work side by side, each in a run named after it."""
    kubectl = environment.kubectl
    tenant = Tenant(kubectl=kubectl, namespace="test-bad-input")
    tenant.create(environment.account)
    reader = object_store.ensure_reader(kubectl, owner=environment.account, bucket="read-only")
    wrong = Account(access=environment.account.access, secret="not-the-secret")
    for name, account in (("wrong-keys", wrong), ("reader", reader)):
        secret = account.as_secret(tenant.namespace)
        kubectl.apply(secret | {"metadata": secret["metadata"] | {"name": name}})
    make_class(kubectl, "wrong-keys", like=DEMO_CLASS, storage={"credentials": {"secretName": "wrong-keys"}})
    read_only = {"credentials": {"secretName": "reader"}, "workUri": "s3://read-only/work"}
    make_class(kubectl, "reader", like=DEMO_CLASS, storage=read_only)
    with object_store.bucket(kubectl, environment.account) as store:
        for path, text in FILES.items():
            store.put(f"{FOLDER}/{path}", text.encode())
    for name, case in CASES.items():
        case.apply(tenant, name)
    yield tenant
    tenant.delete()
    kubectl("delete", "lorafinetuneclass", "wrong-keys", "reader")


@pytest.mark.parametrize("name", CASES)
def test_named_before_an_accelerator_is_taken(bad_runs: Tenant, name: str) -> None:
    case = CASES[name]
    run = bad_runs.wait_for(name, "Finished")
    assert ready_reason(run) == case.reason, ready_message(run)
    for word in case.says:
        assert word in ready_message(run)
    assert bad_runs.jobs(name, stage="train") == []
    assert "not-the-secret" not in json.dumps(run)


def test_missing_secret_is_waited_for_and_heals(environment: Environment, tenant: Tenant) -> None:
    with tenant.own_class(like=DEMO_CLASS, storage={"credentials": {"secretName": "late"}}) as late:
        tenant.apply("run", className=late, dataset={"uri": "s3://lora/nothing.jsonl"})
        run = tenant.wait_for_reason("run", "SecretNotFound")
        assert '"late"' in ready_message(run)
        secret = environment.account.as_secret(tenant.namespace)
        environment.kubectl.apply(secret | {"metadata": secret["metadata"] | {"name": "late"}})
        tenant.wait_for_reason("run", "DatasetNotFound")  # the pod started by itself and looked


def test_image_that_cannot_be_pulled(tenant: Tenant) -> None:
    with tenant.own_class(image="localhost/lora-operator/none:1") as no_image:
        tenant.apply("run", className=no_image)
        run = tenant.wait_for_reason("run", "ImagePullFailed")
        assert "localhost/lora-operator/none:1" in ready_message(run)
        assert "spec.image" in ready_message(run)


def test_pod_that_fits_no_node(tenant: Tenant) -> None:
    with tenant.own_class(
        prepare={"resources": {"requests": {"cpu": 1000, "memory": "1Gi"}}, "scratch": "1Gi"}
    ) as huge:
        tenant.apply("run", className=huge)
        run = tenant.wait_for_reason("run", "Unschedulable")
        assert "Insufficient cpu" in ready_message(run)


def test_gpu_class_without_a_gpu_waits_and_says_so(tenant: Tenant) -> None:
    with tenant.own_class(accelerator={"gpu": {"memory": "24Gi"}}) as no_gpu:
        tenant.play("run", "ok", class_name=no_gpu)
        run = tenant.wait_for_reason("run", "Unschedulable")
        assert "nvidia.com/gpu" in ready_message(run)
        assert run["status"]["runDigest"]


def test_namespace_whose_quota_is_used_up(environment: Environment, tenant: Tenant) -> None:
    metadata = {"name": "full", "namespace": tenant.namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    environment.kubectl.apply(quota)
    tenant.play("run", "ok")
    run = tenant.wait_for_reason("run", "QuotaExceeded")
    assert "exceeded quota: full" in ready_message(run)
    environment.kubectl("-n", tenant.namespace, "delete", "resourcequota", "full")
    tenant.wait_for("run", "Ready")


def test_namespace_that_refuses_the_pod(environment: Environment, tenant: Tenant) -> None:
    limit = {"type": "Container", "max": {"memory": "1Mi"}}
    metadata = {"name": "tiny", "namespace": tenant.namespace}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": {"limits": [limit]}}
    environment.kubectl.apply(body)
    tenant.play("run", "ok")
    run = tenant.wait_for_reason("run", "PodRefused")
    assert "maximum memory usage per Container is 1Mi" in ready_message(run)


def test_a_webhook_that_does_not_answer_is_told_of_and_heals(environment: Environment, tenant: Tenant) -> None:
    """As when a queue's or a policy's controller is away: each create of a Job is answered with status 500."""
    webhook = {
        "name": "jobs.example.com",
        "clientConfig": {"service": {"namespace": tenant.namespace, "name": "nobody"}},
        "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": tenant.namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind, name = "ValidatingWebhookConfiguration", tenant.namespace
    metadata = {"name": name}
    body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": metadata, "webhooks": [webhook]}
    environment.kubectl.apply(body)
    try:
        probe = ("-n", tenant.namespace, "create", "job", "probe", "--image=none", "--dry-run=server")
        first_refusal(lambda: refusal_of(lambda: tenant.kubectl(*probe)))
        tenant.play("run", "ok")
        run = tenant.wait_for_reason("run", "ChildRefused")
        assert 'failed calling webhook "jobs.example.com"' in ready_message(run)
        assert is_true(run, "Reconciling")
    finally:
        environment.kubectl("delete", kind, name)
    tenant.wait_for("run", "Ready")
