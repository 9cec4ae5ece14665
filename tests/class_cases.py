"""What the CRD of LoraFineTuneClass accepts and refuses."""

from __future__ import annotations

from typing import Any

from lora_operator import naming

from tests.builders import class_spec
from tests.crd_case import Body, CrdCase, dotted


def _class(name: str, words: str = "", **start: Any) -> CrdCase:
    return CrdCase(name=name, kind=naming.CLASS_KIND, start=dotted(start), words=words)


ALLOWED = (
    ("models", "meta-llama/*"),
    ("models", "meta-llama/Llama-3.2-1B"),
    ("models", "meta-llama/Llama-3*"),
    ("models", "s3://{namespace}/models/*"),
    ("models", "pvc://*"),
    ("models", "*"),
    ("datasets", "s3://shared/{namespace}/*"),
    ("datasets", "s3://shared/rows.jsonl"),
    ("datasets", "s3://shared/{namespace}"),
    ("datasets", "hf://datasets/*"),
    ("datasets", "configmap://*"),
    ("outputs", "gs://{namespace}/*"),
    ("outputs", "az://container"),
    ("queues", "gpus"),
    ("queues", "*"),
    ("queues", "{namespace}-gpus"),
    ("queues", "{namespace}"),
    ("priorityClasses", "batch-*"),
)
LOOSE = (
    ("models", "a model"),
    ("models", "s3://team-a*"),
    ("datasets", "s3://shared*"),
    ("datasets", "s3://shared/{namespace}*"),
    ("datasets", "s3://*/rows"),
    ("datasets", "http://somewhere/*"),
    ("outputs", "s3://{namespace}*"),
    ("outputs", "pvc://claim/*"),
    ("outputs", "*"),
    ("queues", "{namespace}*"),
    ("queues", "GPUs"),
    ("queues", "a*b"),
    ("priorityClasses", "{name}"),
)
"""Entries that would allow more than they seem to, or nothing."""


EPOCHS: Body = {"training": {"numTrainEpochs": 2}}
DEFAULTS: Body = {"huggingFace": {"tokenSecretRef": {"name": "hub"}}} | EPOCHS
CLAIM: Body = {"name": "data", "mountPath": "/data", "persistentVolumeClaim": {"claimName": "data"}}
TAINT: Body = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
BOTH: Body = {"gpu": {"memory": "80Gi"}, "cpu": {}}
ACCOUNT: Body = class_spec()["storage"] | {"credentials": {"serviceAccountName": "a"}}
OVERLAYS: tuple[tuple[str, str, str, Any], ...] = (
    ("a variable", "", "pod.env", [{"name": "NCCL_DEBUG", "value": "INFO"}]),
    ("another HOME", "pod.env may not name", "pod.env", [{"name": "HOME", "value": "/root"}]),
    ("the hub's token", "pod.env may not name", "pod.env", [{"name": "HF_TOKEN", "value": "x"}]),
    ("a variable with a space", "spec.pod.env", "pod.env", [{"name": "A B"}]),
    ("a claim", "", "pod.volumes", [CLAIM]),
    ("a volume of two kinds", "exactly one of", "pod.volumes", [CLAIM | {"secret": {"secretName": "a"}}]),
    ("another scratch", "may not be mounted in or above", "pod.volumes", [CLAIM | {"mountPath": "/scratch"}]),
    ("a folder in scratch", "may not be mounted in or above", "pod.volumes", [CLAIM | {"mountPath": "/scratch/a"}]),
    ("a folder above the run file", "may not be mounted in or above", "pod.volumes", [CLAIM | {"mountPath": "/etc"}]),
    ("the root", "mountPath", "pod.volumes", [CLAIM | {"mountPath": "/"}]),
    ("a way out", "mountPath", "pod.volumes", [CLAIM | {"mountPath": "/data/../etc"}]),
    ("one folder twice", "same mountPath", "pod.volumes", [CLAIM, CLAIM | {"name": "more"}]),
    ("a label", "", "pod.labels", {"example.com/team": "ml"}),
    ("the operator's label", "may not begin with", "pod.labels", {"lora-operator.io/run-uid": "x"}),
    ("another manager", "may not begin with", "pod.labels", {"app.kubernetes.io/managed-by": "me"}),
    ("a label that is a sentence", "spec.pod.labels", "pod.labels", {"team": "machine learning"}),
    ("a key that is a sentence", "keys of labels", "pod.labels", {"my team": "ml"}),
    ("an annotation", "", "pod.annotations", {"sidecar.istio.io/inject": "false"}),
    ("the operator's annotation", "may not begin with", "pod.annotations", {"lora-operator.io/x": "y"}),
    ("a key of an annotation", "keys of annotations", "pod.annotations", {"/": "y"}),
    ("pull secrets", "", "pod.imagePullSecrets", [{"name": "registry"}]),
    ("a service account", "", "pod.serviceAccountName", "trainer"),
    ("a name that is none", "spec.pod.serviceAccountName", "pod.serviceAccountName", "My Account"),
    (
        "two service accounts",
        "set the same field",
        "",
        class_spec(storage=ACCOUNT, pod={"serviceAccountName": "b"}),
    ),
    ("a key of 64", "keys of labels", "pod.labels", {"a" * 64: "ml"}),
    ("a key of 63", "", "pod.labels", {"a" * 63: "ml"}),
    ("a key with a long prefix", "keys of annotations", "pod.annotations", {f"{'a' * 254}/b": "ml"}),
    ("a key whose prefix is no domain", "keys of annotations", "pod.annotations", {"a..b/c": "ml"}),
    ("a node", "", "train.nodeSelector", {"gpu": "h100"}),
    ("a node by a sentence", "keys of nodeSelector", "train.nodeSelector", {"a b": "h100"}),
    ("a toleration", "", "train.tolerations", [TAINT]),
    ("every taint", "", "prepare.tolerations", [{"operator": "Exists"}]),
    ("a taint that exists with a value", "takes no value", "train.tolerations", [TAINT | {"value": "a"}]),
    ("a taint that equals nothing", "needs a key", "train.tolerations", [{"value": "a"}]),
    ("a taint that equals a key of nothing", "key", "train.tolerations", [{"key": "", "value": "a"}]),
    ("a taint with a sentence", "value", "train.tolerations", [{"key": "a", "value": "b c"}]),
    ("patience for a taint", "needs effect NoExecute", "train.tolerations", [TAINT | {"tolerationSeconds": 5}]),
    ("a runtime class", "", "train.runtimeClassName", "nvidia"),
    ("a scheduler", "", "train.schedulerName", "volcano"),
    ("a priority", "", "prepare.priorityClassName", "batch"),
)


RACK: Body = {"labelSelector": {}, "topologyKey": "example.com/rack"}
SPREAD: Body = RACK | {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _on_node(operator: str, *values: str) -> Body:
    """An affinity to nodes by one expression."""
    expression = {"key": "example.com/gpus", "operator": operator} | ({"values": list(values)} if values else {})
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}


AFFINITIES: tuple[tuple[str, str, str, Any], ...] = (
    ("nodes by values", "", "affinity", _on_node("In", "4", "8")),
    ("nodes by a number", "", "affinity", _on_node("Gt", "4")),
    ("nodes by two numbers", "Gt and Lt take one", "affinity", _on_node("Gt", "4", "8")),
    ("nodes by a label that exists", "", "affinity", _on_node("Exists")),
    ("nodes by a value of no label", "Exists and DoesNotExist take none", "affinity", _on_node("Exists", "a")),
    ("nodes by no value", "In and NotIn take values", "affinity", _on_node("In")),
    ("nodes by a comparison that is none", "operator", "affinity", _on_node("Equals", "a")),
    ("nodes by no term", "nodeSelectorTerms", "affinity", {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}),
    ("one rack", "", "affinity", {"podAffinity": {REQUIRED: [RACK]}}),
    (
        "another rack",
        "",
        "affinity",
        {"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": RACK}]}},
    ),
    (
        "a preference of no weight",
        "weight",
        "affinity",
        {"podAffinity": {PREFERRED: [{"weight": 0, "podAffinityTerm": RACK}]}},
    ),
    ("a spread", "", "topologySpreadConstraints", [SPREAD]),
    ("a spread over nothing", "topologyKey", "topologySpreadConstraints", [SPREAD | {"topologyKey": ""}]),
    ("a spread of no skew", "maxSkew", "topologySpreadConstraints", [SPREAD | {"maxSkew": 0}]),
    (
        "a spread that may fail",
        "whenUnsatisfiable",
        "topologySpreadConstraints",
        [SPREAD | {"whenUnsatisfiable": "Fail"}],
    ),
)


EXPRESSIONS = [
    {"key": "team", "operator": "In", "values": ["a", "b"]},
    {"key": "team", "operator": "NotIn", "values": ["c"]},
    {"key": "example.com/gpu", "operator": "Exists"},
    {"key": "frozen", "operator": "DoesNotExist"},
]
CLASS_CASES: tuple[CrdCase, ...] = (
    _class("the smallest class"),
    _class("a GPU class without memory", "spec.accelerator.gpu", spec__accelerator={"gpu": {}}),
    _class("a CPU class without memory", spec__accelerator={"cpu": {}}),
    _class(
        "an accelerator by half a name", "resourceName", spec__accelerator={"gpu": {"memory": 1, "resourceName": "gpu"}}
    ),
    _class("another accelerator", spec__accelerator={"gpu": {"memory": "192Gi", "resourceName": "amd.com/gpu"}}),
    _class("credentials in a sentence", "secretName", spec__storage__credentials={"secretName": "my secret"}),
    _class("a cache on no name", "claimName", spec__modelCache={"claimName": "a..b"}),
    _class("a class for several nodes", spec__limits__nodes=2),
    _class("a class whose scheduler starts gangs", spec__train={"placement": "Scheduler", "schedulerName": "volcano"}),
    _class("a class whose scheduler has no name", "needs train.schedulerName", spec__train__placement="Scheduler"),
    _class("a class whose pods start one by one", spec__train__placement="PodByPod"),
    _class("a class of another placement", "spec.train.placement", spec__train__placement="Gang"),
    _class("a class for no node", "spec.limits.nodes", spec__limits__nodes=0),
    _class("no credentials", "exactly one of secretName", spec__storage__credentials={}),
    _class(
        "both credentials",
        "exactly one of secretName",
        spec__storage__credentials={"secretName": "a", "serviceAccountName": "b"},
    ),
    _class("a workload identity", spec__storage__credentials={"serviceAccountName": "b"}),
    _class("work in a bucket of each tenant", spec__storage__workUri="s3://lora-{namespace}/work"),
    _class("work in a bucket of another placeholder", "workUri", spec__storage__workUri="s3://{name}/work"),
    _class("work on a claim", "workUri", spec__storage__workUri="pvc://claim/work"),
    _class("work in Google's cloud", spec__storage__workUri="gs://bucket/runs/{namespace}"),
    _class("a queue for all its runs", spec__defaults__queueName="gpus"),
    _class("a queue with a slash", "spec.defaults.queueName", spec__defaults__queueName="a/b"),
    _class("a mirror of the hub", spec__hubEndpoint="https://hub.example"),
    _class("a mirror that is no URL", "spec.hubEndpoint", spec__hubEndpoint="hub.example"),
    *(
        _class(f"pod with {name}", words, **{f"spec__{path}".removesuffix("__"): value})
        for name, words, path, value in OVERLAYS
    ),
    *(
        _class(f"{name} for {stage}", words, **{f"spec__{stage}__{path}": value})
        for stage in ("prepare", "train")
        for name, words, path, value in AFFINITIES
    ),
    _class("shared memory", spec__train__sharedMemory="16Gi"),
    _class("shared memory of some size", "sharedMemory", spec__train__sharedMemory="much"),
    _class("a class for all namespaces", spec__namespaceSelector={}),
    _class("a class for some namespaces", spec__namespaceSelector={"matchLabels": {"example.com/team": "ml", "a": ""}}),
    _class("a class for a label of two words", "matchLabels", spec__namespaceSelector={"matchLabels": {"team": "m l"}}),
    _class("a class by expressions", spec__namespaceSelector={"matchExpressions": EXPRESSIONS}),
    _class(
        "a class by values of no label",
        "Exists and DoesNotExist take none",
        spec__namespaceSelector={"matchExpressions": [{"key": "team", "operator": "Exists", "values": ["a"]}]},
    ),
    _class(
        "a class by no values",
        "In and NotIn take values",
        spec__namespaceSelector={"matchExpressions": [{"key": "team", "operator": "In"}]},
    ),
    _class(
        "a class by another operator",
        "operator",
        spec__namespaceSelector={"matchExpressions": [{"key": "team", "operator": "Gt", "values": ["1"]}]},
    ),
    _class("defaults", spec__defaults=DEFAULTS),
    _class(
        "steps and epochs by default", "not both", spec__defaults={"training": {"maxSteps": 1, "numTrainEpochs": 1}}
    ),
    _class("defaults of every block", spec__defaults={"lora": {"r": 8}, "evaluation": {"samples": 0}}),
    *(
        _class(f"a default {field} above its limit", f"defaults.{block}.{field} is more than limits.{field}", **edits)
        for block, field in (("lora", "r"), ("model", "maxSeqLength"), ("training", "maxSteps"))
        for edits in [{f"spec__defaults__{block}__{field}": 65, f"spec__limits__{field}": 64}]
    ),
    _class("a model cache", spec__modelCache={"claimName": "models"}),
    _class("a model cache of no claim", "claimName", spec__modelCache={}),
    _class("limits", spec__limits={"r": 64, "maxSeqLength": 4096, "maxSteps": 500, "maxRuntimeSeconds": 3600}),
    _class("a rank of nought at most", "spec.limits.r", spec__limits={"r": 0}),
    *(_class(f"{entry} in {field}", spec__allowed={field: [entry]}) for field, entry in ALLOWED),
    *(_class(f"{entry} in {field}", f"spec.allowed.{field}", spec__allowed={field: [entry]}) for field, entry in LOOSE),
    _class("nothing in outputs", "spec.allowed.outputs", spec__allowed={"outputs": []}),
    _class("no image", "image", spec__image=None),
    _class("an image by digest", spec__image=f"registry.example:5000/a/trainer:1.0@sha256:{'0' * 64}"),
    _class("an image by half a digest", "spec.image", spec__image="registry.example/trainer@sha256:0123"),
    _class("an image with a space", "spec.image", spec__image="my trainer"),
    _class("an accelerator of no kind", "exactly one of gpu and cpu", spec__accelerator={}),
    _class("an accelerator of two kinds", "exactly one of gpu and cpu", spec__accelerator=BOTH),
    _class("memory as a word", "spec.train.resources.requests.memory", spec__train__resources__requests__memory="much"),
    _class(
        "whole processors", spec__train__resources={"requests": {"cpu": 4}, "limits": {"cpu": "8", "memory": "1Gi"}}
    ),
    _class("half a processor as a number", "cpu", spec__train__resources__requests__cpu=0.5),
    _class("less than no memory", "spec.train.scratch", spec__train__scratch=-1),
    _class("a network card", spec__train__resources={"limits": {"rdma/hca": 1}}),
    _class("a resource of no name", "keys of limits", spec__train__resources={"limits": {"hca": 1}}),
    _class("a resource of no name that is wanted", "keys of requests", spec__train__resources={"requests": {"hca": 1}}),
    _class("a long prefix", "keys of limits", spec__train__resources={"limits": {f"{'a' * 245}/b": 1}}),
    _class("a prefix that just fits", spec__train__resources={"limits": {f"{'a' * 244}/b": 1}}),
    _class("GPUs by hand", "may not name the GPUs", spec__train__resources={"limits": {"nvidia.com/gpu": 1}}),
    _class(
        "GPUs of another maker by hand",
        "may not name the GPUs",
        spec__accelerator={"gpu": {"memory": "192Gi", "resourceName": "amd.com/gpu"}},
        spec__train__resources={"requests": {"amd.com/gpu": 1}},
    ),
)
