"""What a class allows, as data: at each guard a run beyond the edge and one on it. Replayed against the operator's own
check here, and against the admission policy of a real API server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.builders import model_at, rows_at, run_body
from tests.crd_case import Body, edited

GUARDED = "guarded"
"""The class of the cases."""
NAMESPACE = "team-a"
LIMITS: Body = {
    "limits": {"gpus": 4, "nodes": 2, "r": 64, "maxSeqLength": 4096, "maxSteps": 500, "maxRuntimeSeconds": 3600},
    "defaults": {"queueName": "gpus"},
    "allowed": {
        "models": ["meta-llama/*", "s3://{namespace}/models/*", "Qwen/Qwen3-8B"],
        "datasets": ["s3://{namespace}/*", "s3://shared/rows.jsonl", "hf://datasets/openai/*", "configmap://*"],
        "outputs": ["s3://{namespace}/*"],
        "queues": ["gpus", "{namespace}-*"],
        "priorityClasses": ["batch-*", "interactive"],
    },
}


@dataclass(frozen=True, kw_only=True)
class PolicyCase:
    """One run of the guarded class."""

    field: str
    """Path of the guard that is tried, as in the table."""
    edits: dict[str, Any]
    """What is changed of the smallest run."""
    refused: str = ""
    """What the sentence names besides the field; empty where the run is allowed."""

    @property
    def name(self) -> str:
        """For people."""
        value = ", ".join(str(value) for value in self.edits.values())
        return f"{self.field} {value}"

    def body(self, name: str = "policy", *, namespace: str = NAMESPACE) -> Body:
        """The run as it is applied."""
        run = run_body(name, namespace=namespace, className=GUARDED)
        return edited(run, {f"spec.{path}": value for path, value in self.edits.items()})


def _pair(field: str, beyond: Any, edge: Any, *, most: Any) -> tuple[PolicyCase, PolicyCase]:
    words = f"spec.{field} is {beyond}, but LoraFineTuneClass {GUARDED} allows at most {most}"
    return PolicyCase(field=field, edits={field: beyond}, refused=words), PolicyCase(field=field, edits={field: edge})


def _only(
    field: str, *, refused: tuple[str, ...], allowed: tuple[str, ...], shape: Callable[[str], Any] = str
) -> tuple[PolicyCase, ...]:
    beyond = (
        PolicyCase(field=field, edits={field: shape(value)}, refused=f"spec.{field} {value} is not allowed by")
        for value in refused
    )
    return *beyond, *(PolicyCase(field=field, edits={field: shape(value)}) for value in allowed)


def _sources(*uris: str, refused: str = "") -> PolicyCase:
    words = f"spec.dataset.sources[] {refused} is not allowed by" if refused else ""
    edits = {"dataset": {"sources": [rows_at(uri) for uri in uris]}}
    return PolicyCase(field="dataset.sources[]", edits=edits, refused=words)


def _sets(*uris: str, refused: str = "") -> PolicyCase:
    words = f"spec.evaluation.datasets[] {refused} is not allowed by" if refused else ""
    sets = [rows_at(uri) | {"name": f"set-{number}"} for number, uri in enumerate(uris)]
    return PolicyCase(field="evaluation.datasets[]", edits={"evaluation": {"datasets": sets}}, refused=words)


CASES: tuple[PolicyCase, ...] = (
    *_pair("lora.r", 65, 64, most=64),
    *_pair("model.maxSeqLength", 4097, 4096, most=4096),
    *_pair("training.maxSteps", 501, 500, most=500),
    *_pair("maxRuntimeSeconds", 3601, 3600, most=3600),
    *_pair("parallelism.gpus", 5, 4, most=4),
    *_pair("parallelism.nodes", 3, 2, most=2),
    *_only(
        "model",
        shape=model_at,
        refused=(
            "mistralai/Mistral-7B-v0.3",
            "meta-llama-evil/x",
            "Qwen/Qwen3-8B-Base",
            "s3://team-b/models/x",
            "pvc://x/y",
        ),
        allowed=("meta-llama/Llama-3.2-1B", "Qwen/Qwen3-8B", "s3://team-a/models/x"),
    ),
    *_only(
        "dataset",
        shape=rows_at,
        refused=("s3://team-b/rows.jsonl", "s3://team-ab/x.jsonl", "s3://shared/rows.jsonl.gz", "pvc://claim/x.jsonl"),
        allowed=("s3://team-a/rows.jsonl", "s3://shared/rows.jsonl", "configmap://rows/a.jsonl"),
    ),
    *_only(
        "evaluation.dataset",
        shape=rows_at,
        refused=("hf://datasets/other/gsm8k",),
        allowed=("hf://datasets/openai/gsm8k/main", "configmap://rows/held-out.jsonl"),
    ),
    *_only(
        "output.uri",
        refused=("s3://team-b/out", "gs://team-a/out"),
        allowed=("s3://team-a/adapters/x",),
    ),
    *_only("queueName", refused=("gpus-2", "team-b-gpus", "team-ab"), allowed=("gpus", "team-a-gpus")),
    *_only("workloadPriorityClassName", refused=("urgent", "batch"), allowed=("batch-low", "interactive")),
    _sources("s3://team-a/a.jsonl", "s3://team-b/b.jsonl", refused="s3://team-b/b.jsonl"),
    _sources("configmap://rows/a.jsonl", "pvc://rows/b.jsonl", refused="pvc://rows/b.jsonl"),
    _sources("s3://team-a/a.jsonl", "s3://shared/rows.jsonl"),
    _sets("s3://team-a/a.jsonl", "s3://team-b/b.jsonl", refused="s3://team-b/b.jsonl"),
    _sets("configmap://rows/a.jsonl", "pvc://rows/b.jsonl", refused="pvc://rows/b.jsonl"),
    _sets("s3://team-a/a.jsonl", "s3://shared/rows.jsonl"),
)
