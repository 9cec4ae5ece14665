"""Runs and classes whose children are looked at, and those children."""

from __future__ import annotations

from typing import Any

from lora_operator.api.lorafinetune import LoraFineTuneStatus, Work
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.naming import Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import config_map, resolve

from tests.builders import CLASS_NAME, NAME, NAMESPACE, UID, a_run, class_spec

Body = dict[str, Any]
SECRET = {"name": "hub", "key": "token"}
PRIVATE_MODEL = {"name": "acme/private-8b", "revision": "main"}
IDENTITY = {"workUri": "s3://platform/runs/{namespace}", "credentials": {"serviceAccountName": "bucket-writer"}}
GOOGLE = {"workUri": "gs://platform/runs/{namespace}", "credentials": {"secretName": "bucket"}}
MANY = [
    {"configMapRef": {"name": "rows", "key": "b.jsonl"}, "weight": 3},
    {"configMapRef": {"name": "rows", "key": "a.jsonl"}, "format": "Text"},
    {"claimRef": {"name": "rows", "path": "c.parquet"}},
    {"uri": "hf://datasets/owner/name@main/data"},
]
MIRROR = "https://hub.example/hf"
SLIM = "registry.example/lora-prepare:0.1.0"

SIGNED = {"uri": "s3://team-a/adapters/text-to-sql", "signing": {"keySecretRef": {"name": "signing"}}}

OVERLAY: Body = {
    "imagePullPolicy": "Always",
    "prepare": {"tolerations": [{"operator": "Exists"}]},
    "train": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "runtimeClassName": "nvidia",
        "priorityClassName": "batch",
        "schedulerName": "volcano",
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "example.com/gpus", "operator": "Gt", "values": ["3"]}]}
                    ]
                }
            },
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "labelSelector": {},
                            "topologyKey": "example.com/rack",
                            "matchLabelKeys": ["batch.kubernetes.io/job-name"],
                        },
                    }
                ]
            },
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app.kubernetes.io/managed-by": "lora-operator"}},
            }
        ],
    },
    "pod": {
        "labels": {"example.com/cost-centre": "ml"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "volumes": [
            {"name": "certificates", "mountPath": "/etc/ssl/company", "configMap": {"name": "company-ca"}},
            {"name": "licence", "mountPath": "/licence", "secret": {"secretName": "licence"}},
            {
                "name": "shared",
                "mountPath": "/shared",
                "readOnly": False,
                "persistentVolumeClaim": {"claimName": "shared"},
            },
        ],
    },
    "defaults": {"huggingFace": {"tokenSecretRef": {"name": "hub"}}, "training": {"numTrainEpochs": 3}},
}

PARTS = ("config-map", "prepare-job", "train-job", "cleanup-job")
WORK = Work(uri=f"s3://platform/runs/{NAMESPACE}/{NAMESPACE}/{NAME}/{UID}")

SCENARIOS: dict[str, tuple[Body, Body]] = {
    "minimal": ({}, {}),
    "cpu-class": (
        {},
        {
            "accelerator": {"cpu": {}},
            "prepare": {"image": SLIM},
            "train": {"resources": {"requests": {"cpu": 2, "memory": "6Gi"}}, "scratch": "10Gi"},
        },
    ),
    "private-model": (
        {
            "huggingFace": {"tokenSecretRef": SECRET},
            "model": PRIVATE_MODEL,
            "output": SIGNED,
            "dataset": {"claimRef": {"name": "rows", "path": "sql/train.jsonl"}, "columns": {"prompt": "question"}},
            "evaluation": {"dataset": {"claimRef": {"name": "held-out", "path": "sql.jsonl"}}},
            "training": {"maxSteps": 100, "learningRate": 1e-4},
        },
        {},
    ),
    "workload-identity": ({}, {"storage": IDENTITY}),
    "grpo": (
        {
            "training": {
                "method": "GRPO",
                "grpo": {
                    "rewards": [
                        {"numericAnswer": {}, "weight": 2},
                        {"python": {"configMapRef": {"name": "judges", "key": "style.py"}}},
                    ]
                },
            }
        },
        {},
    ),
    "model-cache": ({}, {"modelCache": {"claimName": "models"}}),
    "overlaid": ({}, OVERLAY),
    "two-nodes": (
        {"parallelism": {"nodes": 2}},
        {"train": {"placement": "PodByPod", "sharedMemory": "16Gi", "resources": {"limits": {"rdma/hca": 1}}}},
    ),
    "many-sources": (
        {
            "dataset": {"sources": MANY},
            "evaluation": {"dataset": {"configMapRef": {"name": "held-out", "key": "rows.jsonl"}}},
        },
        {"storage": GOOGLE, "hubEndpoint": MIRROR},
    ),
}


def children(scenario: str, *, attempt: int = 1, oom_shrinks: int = 0) -> dict[str, Body]:
    """The ConfigMap of a scenario and a Job of each stage."""
    spec, class_edits = SCENARIOS[scenario]
    run = a_run(status=LoraFineTuneStatus(work=WORK), **spec)
    parsed = LoraFineTuneClassSpec.model_validate(class_spec(**class_edits))
    resolved = resolve(run, class_name=CLASS_NAME, class_spec=parsed)

    def job(stage: Stage) -> Body:
        request = StageRequest(run=run, resolved=resolved, stage=stage, attempt=attempt, oom_shrinks=oom_shrinks)
        return stage_job(request)

    return {"config-map": config_map(run, resolved)} | {f"{stage}-job": job(stage) for stage in Stage}


def pods(scenario: str) -> dict[Stage, Body]:
    made = children(scenario)
    return {stage: made[f"{stage}-job"]["spec"]["template"]["spec"] for stage in Stage}


def environment(pod: Body) -> dict[str, Body]:
    return {entry["name"]: entry for entry in pod["containers"][0]["env"]}
