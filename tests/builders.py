"""Builders of everything that tests of the operator are made of, with defaults for what a test does not care about.

Bodies (`run_body`, `class_body`) are what a user applies; the others are the typed values of the planner. Every keyword
overrides one default.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lora_operator import naming
from lora_operator.api.lorafinetune import LoraFineTune, LoraFineTuneStatus, parse_run
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.naming import RunId, Stage, job_name
from lora_operator.planning.observed import ClassView, JobView, Observed, PodView, Termination
from lora_operator.workloads.resolved import ResolvedRun, resolve
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.manifest import ArtifactManifest, FileEntry, Verification
from lora_trainer.contract.outcome import (
    Artifact,
    Chosen,
    DatasetFigures,
    DroppedRows,
    Estimate,
    Evaluation,
    Lengths,
    ModelFigures,
    Outcome,
    PrepareResult,
    TrainResult,
    Usage,
    encode_outcome,
)

Body = dict[str, Any]

T0 = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
"""When the story of a planner test begins."""
NAMESPACE = "team-a"
NAME = "text-to-sql"
UID = "8f0c7a52-3f3d-4f7e-9a53-2f9f6a1f0001"
RUN_ID = RunId(NAMESPACE, UID)
CLASS_NAME = "h100"
DIGEST = "d" * 64
OUTPUT = "s3://team-a/adapters/text-to-sql"


def after(seconds: float) -> datetime:
    """So many seconds after T0."""
    return T0 + timedelta(seconds=seconds)


def stamp(moment: datetime) -> str:
    """The moment as metav1.Time."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def rows_at(address: str) -> Body:
    """The fields that name rows by an address, as a class's `allowed` has them."""
    scheme, _, rest = address.partition("://")
    name, _, path = rest.partition("/")
    if scheme == "configmap":
        return {"configMapRef": {"name": name, "key": path}}
    return {"claimRef": {"name": name, "path": path}} if scheme == "pvc" else {"uri": address}


def model_at(address: str) -> Body:
    """The fields that name a model by such an address."""
    return rows_at(address) if address.startswith("pvc://") else {"name": address}


# --- what people apply --------------------------------------------------------------------------------------------


def run_spec(**spec: Any) -> Body:
    """The smallest complete spec."""
    smallest = {
        "model": {"name": "meta-llama/Llama-3.2-3B-Instruct"},
        "dataset": {"uri": "s3://team-a/text-to-sql/train.jsonl"},
        "output": {"uri": OUTPUT},
    }
    return smallest | spec


def run_body(name: str = NAME, *, namespace: str = NAMESPACE, **spec: Any) -> Body:
    """A LoraFineTune as a user applies it."""
    return {
        "apiVersion": naming.API_VERSION,
        "kind": naming.RUN_KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": run_spec(**spec),
    }


def class_spec(**spec: Any) -> Body:
    """The smallest complete spec of a GPU class."""
    smallest = {
        "image": "registry.example/lora-trainer:0.1.0",
        "accelerator": {"gpu": {"memory": "80Gi"}},
        "storage": {
            "workUri": "s3://platform/runs/{namespace}",
            "endpoint": "http://object-store.example:7070",
            "region": "eu-west-1",
            "credentials": {"secretName": "bucket"},
        },
    }
    return smallest | spec


def class_body(name: str = CLASS_NAME, *, default: bool = True, **spec: Any) -> Body:
    """A LoraFineTuneClass as a platform team applies it."""
    annotations = {naming.DEFAULT_CLASS_ANNOTATION: "true"} if default else {}
    return {
        "apiVersion": naming.API_VERSION,
        "kind": naming.CLASS_KIND,
        "metadata": {"name": name, "annotations": annotations},
        "spec": class_spec(**spec),
    }


# --- what the planner sees ----------------------------------------------------------------------------------------


def a_run(
    *,
    name: str = NAME,
    uid: str = UID,
    generation: int = 1,
    deleting: bool = False,
    status: LoraFineTuneStatus | None = None,
    **spec: Any,
) -> LoraFineTune:
    """A LoraFineTune as it stands in the API server."""
    body = run_body(name, **spec)
    body["metadata"] |= {
        "uid": uid,
        "generation": generation,
        "creationTimestamp": stamp(T0),
        "resourceVersion": str(generation),
    }
    if deleting:
        body["metadata"]["deletionTimestamp"] = stamp(T0)
    return parse_run(body | ({"status": status.wire()} if status is not None else {}))


def a_class(name: str = CLASS_NAME, *, default: bool = True, invalid: str | None = None, **spec: Any) -> ClassView:
    """A class as the planner sees it; `invalid` says what is wrong with it."""
    parsed = LoraFineTuneClassSpec.model_validate(class_spec(**spec)) if invalid is None else None
    return ClassView(name=name, is_default=default, spec=parsed, error=invalid)


def a_resolved(run: LoraFineTune, *, class_name: str = CLASS_NAME, **spec: Any) -> ResolvedRun:
    """What the run was resolved to."""
    parsed = LoraFineTuneClassSpec.model_validate(class_spec(**spec))
    return resolve(run, class_name=class_name, class_spec=parsed)


def a_pod(job: str = "job", *, created: datetime = T0, **fields: Any) -> PodView:
    """A pod that waits for a node."""
    defaults: Body = {"name": f"{job}-x", "run": RUN_ID, "job_uid": f"uid-{job}", "phase": "Pending"}
    defaults["created"] = created
    return PodView(**(defaults | fields))


def a_running_pod(job: str = "job", *, started: datetime = T0, **fields: Any) -> PodView:
    """A pod that runs, and that started as soon as it had a node."""
    running: Body = {"phase": "Running", "scheduled": started, "started": started, "node": "node-1", "ip": "127.0.0.2"}
    return a_pod(job, **(running | fields))


def a_dead_pod(
    job: str = "job",
    *,
    code: int,
    text: str = "",
    started: datetime = T0,
    finished: datetime | None = None,
    kubelet_reason: str | None = None,
    **fields: Any,
) -> PodView:
    """A pod whose container ended."""
    word = Termination(
        exit_code=code,
        kubelet_reason=kubelet_reason or ("Error" if code else "Completed"),
        text=text,
        finished=finished or started + timedelta(seconds=60),
    )
    phase = "Failed" if code else "Succeeded"
    return a_running_pod(job, started=started, **({"phase": phase, "termination": word} | fields))


def a_job(
    stage: Stage = Stage.TRAIN, attempt: int = 1, *, run: str = NAME, pods: tuple[PodView, ...] = (), **fields: Any
) -> JobView:
    """A Job that works."""
    name = job_name(run, stage, attempt)
    defaults: Body = {"name": name, "uid": f"uid-{name}", "run": RUN_ID, "stage": stage, "attempt": attempt}
    defaults |= {"created": T0, "suspended": False, "deleting": False, "finished": None, "pods": pods}
    return JobView(**(defaults | fields))


def an_observation(run: LoraFineTune | None = None, *jobs: JobView, **fields: Any) -> Observed:
    """Everything about one run. With Jobs it is resolved, without it is not, unless told otherwise."""
    run = run or a_run()
    defaults: Body = {"classes": (a_class(),), "resolved": a_resolved(run) if jobs else None}
    return Observed(run=run, jobs=jobs, **(defaults | fields))


# --- what the trainer says ----------------------------------------------------------------------------------------


def an_artifact(uri: str = f"{OUTPUT}/{DIGEST}") -> Artifact:
    """A published adapter."""
    return Artifact(uri=uri, digest="a" * 64, size_bytes=48_000_000)


def an_evaluation(*, base_loss: float = 1.9, loss: float = 0.6) -> Evaluation:
    """Base and adapter compared."""
    return Evaluation(rows=50, base_loss=base_loss, loss=loss, base_token_accuracy=0.6, token_accuracy=0.85)


def chosen(*, micro_batch: int = 8, accumulation: int = 1, max_steps: int = 600) -> Chosen:
    """What prepare chose."""
    return Chosen(
        max_steps=max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=2e-4,
        save_steps=30,
        packing=True,
        optim="adamw_8bit",
        dtype="bfloat16",
    )


def prepare_result(
    *,
    micro_batch: int = 8,
    accumulation: int = 1,
    max_steps: int = 600,
    artifact: Artifact | None = None,
) -> PrepareResult:
    """What a successful prepare reports; with an artifact nothing is left to train."""
    return PrepareResult(
        run_digest=DIGEST,
        dataset=DatasetFigures(
            format="Messages",
            rows=1000,
            kept=940,
            held_out=50,
            dropped=(DroppedRows(reason="TooLong", rows=10),),
            tokens=470_000,
            trained_token_share=0.31,
            lengths=Lengths(p50=410, p95=980, max=2040),
            digest="b" * 64,
        ),
        model=ModelFigures(
            revision="0cb88a4f764b7a12671c53f0838cd831a0843b95",
            parameters=3_212_749_824,
            architecture="LlamaForCausalLM",
        ),
        estimate=Estimate(
            memory_gib=11.5,
            fits=True,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
        ),
        chosen=chosen(micro_batch=micro_batch, accumulation=accumulation, max_steps=max_steps),
        artifact=artifact,
        evaluation=an_evaluation() if artifact is not None else None,
    )


def train_result() -> TrainResult:
    """What a successful train reports."""
    usage = Usage(train_seconds=840.0, tokens_per_second=15_200.0, peak_memory_gib=11.2)
    return TrainResult(artifact=an_artifact(), evaluation=an_evaluation(), usage=usage)


def an_artifact_manifest(files: tuple[FileEntry, ...]) -> ArtifactManifest:
    """The manifest of a published adapter of these files."""
    result = prepare_result()
    return ArtifactManifest(
        run_digest=DIGEST,
        base_model="s3://team-a/models/smollm2",
        model=result.model,
        data_digest=result.dataset.digest,
        steps=600,
        evaluation=an_evaluation(),
        verification=Verification(files=len(files), max_logit_difference=1.0, generated_tokens=8),
        versions={},
        files=files,
    )


def prepared_text(**result: Any) -> str:
    """Termination message of a prepare that went well."""
    message = "The run is prepared."
    return encode_outcome(Outcome(reason="Succeeded", message=message, result=prepare_result(**result)))


def trained_text(*, step: int = 600, from_step: int | None = None) -> str:
    """Termination message of a train that went well."""
    message = "The adapter is published."
    words = Outcome(reason="Succeeded", message=message, step=step, from_step=from_step, result=train_result())
    return encode_outcome(words)


def failed_text(
    code: ExitCode,
    *,
    message: str = "Something is wrong.",
    remedy: str | None = None,
    step: int | None = None,
    result: PrepareResult | TrainResult | None = None,
    needed_memory_gib: float | None = None,
) -> str:
    """Termination message of a stage that failed; with a result, of one that came to its end all the same."""
    return encode_outcome(
        Outcome(
            reason=code.name,
            message=message,
            remedy=remedy,
            step=step,
            result=result,
            needed_memory_gib=needed_memory_gib,
        )
    )
