"""The children of a run: what is in them, what never is, and what the golden manifests show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator import naming
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.pod_overlay import OWN_FOLDERS, OWN_PREFIXES, OWN_VARIABLES
from lora_operator.naming import Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.service import headless_service
from lora_operator.workloads.settled import config_map, read_config_map, settle
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.run import RunFile

from tests.builders import CLASS_NAME, NAME, NAMESPACE, UID, a_run, a_settled, class_spec

Body = dict[str, Any]
GOLDEN = Path(__file__).parents[2] / "golden"
SECRET = {"name": "hub", "key": "token"}
PRIVATE_MODEL = {"name": "acme/private-8b", "revision": "main", "tokenSecretRef": SECRET}
IDENTITY = {"workUri": "s3://platform/runs/{namespace}", "credentials": {"serviceAccountName": "bucket-writer"}}
GOOGLE = {"workUri": "gs://platform/runs/{namespace}", "credentials": {"secretName": "bucket"}}
MANY = [
    {"uri": "configmap://rows/b.jsonl", "weight": 3},
    {"uri": "configmap://rows/a.jsonl", "format": "text"},
    {"uri": "pvc://rows/c.parquet"},
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
    "defaults": {"model": {"tokenSecretRef": {"name": "hub"}}, "training": {"numTrainEpochs": 3}},
}

SCENARIOS: dict[str, tuple[Body, Body]] = {
    "minimal": ({}, {}),
    "cpu-class": (
        {},
        {
            "accelerator": {"kind": "CPU"},
            "prepare": {"image": SLIM},
            "train": {"cpu": "2", "memory": "6Gi", "scratch": "10Gi"},
        },
    ),
    "private-model": (
        {
            "model": PRIVATE_MODEL,
            "output": SIGNED,
            "dataset": {"uri": "pvc://rows/sql/train.jsonl", "columns": {"prompt": "question"}},
            "evaluation": {"datasetUri": "pvc://held-out/sql.jsonl"},
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
    "two-nodes": ({"resources": {"nodes": 2}}, {}),
    "many-sources": (
        {"dataset": {"sources": MANY}, "evaluation": {"datasetUri": "configmap://held-out/rows.jsonl"}},
        {"storage": GOOGLE, "hubEndpoint": MIRROR},
    ),
}


def children(scenario: str, *, attempt: int = 1, oom_shrinks: int = 0) -> dict[str, Body]:
    """The ConfigMap and both Jobs of a scenario."""
    spec, class_edits = SCENARIOS[scenario]
    run = a_run(**spec)
    parsed = LoraFineTuneClassSpec.model_validate(class_spec(**class_edits))
    settled = settle(run, class_name=CLASS_NAME, class_spec=parsed)

    def job(stage: Stage) -> Body:
        request = StageRequest(run=run, settled=settled, stage=stage, attempt=attempt, oom_shrinks=oom_shrinks)
        return stage_job(request)

    return {
        "config-map": config_map(run, settled),
        "prepare-job": job(Stage.PREPARE),
        "train-job": job(Stage.TRAIN),
    }


def pods(scenario: str) -> dict[Stage, Body]:
    made = children(scenario)
    return {stage: made[f"{stage}-job"]["spec"]["template"]["spec"] for stage in Stage}


def test_the_train_pod_asks_for_as_many_gpus_as_the_run() -> None:
    run = a_run(resources={"gpus": 4})
    settled = settle(run, class_name=CLASS_NAME, class_spec=LoraFineTuneClassSpec.model_validate(class_spec()))
    request = StageRequest(run=run, settled=settled, stage=Stage.TRAIN, attempt=1)
    (container,) = stage_job(request)["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert settled.run_file.resources.gpus == 4


def test_several_train_pods_meet_by_name_and_a_prepare_pod_is_alone() -> None:
    made, service = children("two-nodes", attempt=99), headless_service(a_run(name="7b" + "-x" * 23))
    train, pod = made["train-job"]["spec"], made["train-job"]["spec"]["template"]
    assert (train["completionMode"], train["completions"], train["parallelism"]) == ("Indexed", 2, 2)
    assert pod["spec"]["subdomain"] == f"nodes-{NAME}"
    (container,) = pod["spec"]["containers"]
    assert container["args"][-2:] == ["--first-node", f"{NAME}-train-99-0.nodes-{NAME}"]
    selector = headless_service(a_run())["spec"]["selector"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert not selector.items() <= made["prepare-job"]["spec"]["template"]["metadata"]["labels"].items()
    assert made["prepare-job"]["spec"]["completions"] == 1
    assert len(service["metadata"]["name"]) <= 63, "a DNS label"
    assert service["metadata"]["name"][0].isalpha(), "which begins with a letter, as the run's name need not"


ALL_PODS = {f"{scenario}-{stage}": pod for scenario in SCENARIOS for stage, pod in pods(scenario).items()}
pod_cases = pytest.mark.parametrize("pod", ALL_PODS.values(), ids=ALL_PODS.keys())


# --- golden -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["config-map", "prepare-job", "train-job"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_manifests_are_as_they_were(scenario: str, part: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{scenario}-{part}.yaml"
    rendered = yaml.safe_dump(children(scenario)[part], sort_keys=False, width=120)
    if request.config.getoption("--update-golden"):
        path.write_text(rendered)
    assert path.read_text() == rendered, "look at the difference; if it is meant, run pytest --update-golden"


def test_there_is_no_golden_file_without_a_scenario() -> None:
    expected = {f"{s}-{part}.yaml" for s in SCENARIOS for part in ("config-map", "prepare-job", "train-job")}
    assert {path.name for path in GOLDEN.glob("*.yaml")} == expected


# --- what every pod must be ---------------------------------------------------------------------------------------


def restricted_breaches(pod: Body) -> Iterator[str]:
    """What Pod Security `restricted` (and this project, on top of it) would object to."""
    context = pod.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield field
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") in (None, 0):
        yield "runs as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    for volume in pod["volumes"]:
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "downwardAPI"}:
            yield f"volume {kinds}"
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield "privilege escalation"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
            yield "capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield "writable root"


@pod_cases
def test_a_pod_meets_pod_security_restricted(pod: Body) -> None:
    assert list(restricted_breaches(pod)) == []


@pod_cases
def test_a_pod_holds_no_api_token_and_no_secret_value(pod: Body) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for entry in pod["containers"][0]["env"]:
        secret = any(word in entry["name"] for word in ("KEY", "TOKEN", "SECRET", "PASSWORD", "ACCOUNT"))
        assert secret == ("secretKeyRef" in entry.get("valueFrom", {})), entry["name"]
    assert not any("secret" in volume for volume in pod["volumes"] if not volume["name"].startswith("class-"))


@pod_cases
def test_what_is_mounted_exists_and_only_scratch_is_writable(pod: Body) -> None:
    container = pod["containers"][0]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    prepares = container["args"][0] == Stage.PREPARE
    by_class = {"/shared"}
    assert writable - by_class <= {"/scratch", "/tmp", "/dev/shm"} | ({"/mnt/models"} if prepares else set())
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"], "a pod cannot fill the node's disk"


@pod_cases
def test_all_but_the_cpu_is_limited_to_what_is_requested(pod: Body) -> None:
    resources = pod["containers"][0]["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert resources["limits"] == {name: value for name, value in resources["requests"].items() if name != "cpu"}


@pytest.mark.parametrize("name", ALL_PODS)
def test_only_the_train_pod_of_a_gpu_class_takes_an_accelerator(name: str) -> None:
    limits = ALL_PODS[name]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (name.endswith("-train") and not name.startswith("cpu-class"))


# --- Jobs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["config-map", "prepare-job", "train-job"])
def test_children_are_found_and_collected_by_their_owner(part: str) -> None:
    metadata = children("minimal")[part]["metadata"]
    owner = metadata["ownerReferences"][0]
    assert (owner["uid"], owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == (
        UID,
        naming.RUN_KIND,
        True,
        True,
    )
    assert metadata["namespace"] == NAMESPACE
    assert metadata["labels"][naming.MANAGED_BY_LABEL] == naming.MANAGED_BY
    assert metadata["labels"][naming.RUN_UID_LABEL] == UID


def test_jobs_are_named_by_stage_and_attempt() -> None:
    made = children("minimal", attempt=3, oom_shrinks=2)
    assert made["train-job"]["metadata"]["name"] == f"{NAME}-train-3"
    assert made["prepare-job"]["metadata"]["name"] == f"{NAME}-prepare-3"
    args = made["train-job"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["train", "--run", "/etc/lora/run.json", "--attempt", "3", "--oom-shrinks", "2"]


def test_the_longest_name_leaves_room_for_pods() -> None:
    name = naming.job_name("a" * naming.MAX_RUN_NAME, Stage.PREPARE, 99)
    assert len(name) <= 63, "Job names are labels of their pods"


def test_any_failure_ends_the_job_but_disruption_and_interruption_do_not() -> None:
    spec = children("minimal")["train-job"]["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    first, second = spec["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (second["action"], second["onExitCodes"]["values"]) == ("Ignore", [40])
    assert "suspend" not in spec, "a queue owns it"
    assert "ttlSecondsAfterFinished" not in spec, "the operator must have read the outcome first"


@pytest.mark.parametrize(
    ("spec", "defaults", "queue"),
    [
        ({}, {}, None),
        ({"queueName": "own", "workloadPriorityClassName": "urgent"}, {}, "own"),
        ({}, {"queueName": "shared"}, "shared"),
        ({"queueName": "own"}, {"queueName": "shared"}, "own"),
    ],
)
def test_training_alone_waits_in_a_queue(spec: Body, defaults: Body, queue: str | None) -> None:
    run = a_run(**spec)
    settled = a_settled(run, defaults=defaults | {"workloadPriorityClassName": "overnight"})
    jobs = [stage_job(StageRequest(run=run, settled=settled, stage=stage, attempt=1)) for stage in Stage]
    prepare, train = (job["metadata"]["labels"] for job in jobs)
    assert not any("kueue" in label for label in prepare)
    assert train.get("kueue.x-k8s.io/queue-name") == queue
    assert train["kueue.x-k8s.io/priority-class"] == spec.get("workloadPriorityClassName", "overnight")
    assert not any("kueue" in label for label in jobs[1]["spec"]["template"]["metadata"]["labels"])


def test_labels_of_pods_are_those_the_operator_watches() -> None:
    labels = children("minimal")["train-job"]["spec"]["template"]["metadata"]["labels"]
    assert labels[naming.MANAGED_BY_LABEL] == naming.MANAGED_BY
    assert (labels[naming.STAGE_LABEL], labels[naming.ATTEMPT_LABEL]) == ("train", "1")


def test_a_slim_image_prepares_and_the_whole_one_trains() -> None:
    images = {stage: pod["containers"][0]["image"] for stage, pod in pods("cpu-class").items()}
    assert images == {Stage.PREPARE: SLIM, Stage.TRAIN: "registry.example/lora-trainer:0.1.0"}
    assert pods("minimal")[Stage.PREPARE]["containers"][0]["image"] == "registry.example/lora-trainer:0.1.0"


# --- storage and volumes ------------------------------------------------------------------------------------------


def environment(pod: Body) -> dict[str, Body]:
    return {entry["name"]: entry for entry in pod["containers"][0]["env"]}


def test_bucket_credentials_come_from_the_tenants_secret() -> None:
    env = environment(pods("minimal")[Stage.TRAIN])
    assert env["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {"name": "bucket", "key": "AWS_ACCESS_KEY_ID"}
    assert env["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True


def test_the_keys_of_the_class_store_are_needed_and_those_of_others_are_not() -> None:
    needed = [
        name
        for name, entry in environment(pods("many-sources")[Stage.PREPARE]).items()
        if (key := entry.get("valueFrom", {}).get("secretKeyRef")) and not key.get("optional")
    ]
    assert needed == ["GOOGLE_SERVICE_ACCOUNT_KEY"]


def test_a_workload_identity_needs_no_secret() -> None:
    pod = pods("workload-identity")[Stage.TRAIN]
    assert pod["serviceAccountName"] == "bucket-writer"
    assert "secretKeyRef" not in json.dumps(pod)


def test_the_hub_token_of_a_private_model_is_a_reference() -> None:
    env = environment(pods("private-model")[Stage.PREPARE])
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hub", "key": "token"}
    assert "HF_TOKEN" not in environment(pods("minimal")[Stage.PREPARE])


@pytest.mark.parametrize("stage", Stage)
def test_the_signing_key_stays_a_reference(stage: Stage) -> None:
    env = environment(pods("private-model")[stage])
    assert env[SIGNING_KEY_VARIABLE]["valueFrom"]["secretKeyRef"] == {"name": "signing", "key": "private.pem"}
    assert SIGNING_KEY_VARIABLE not in environment(pods("minimal")[stage])


def test_the_mirror_of_the_hub_is_the_class_s() -> None:
    assert all(environment(pod)["HF_ENDPOINT"]["value"] == MIRROR for pod in pods("many-sources").values())
    assert "HF_ENDPOINT" not in environment(pods("minimal")[Stage.PREPARE])


def test_claims_are_mounted_once_and_read_only() -> None:
    pod = pods("private-model")[Stage.PREPARE]
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "held-out", "readOnly": True}, {"claimName": "rows", "readOnly": True}]
    paths = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"].startswith("claim")]
    assert paths == ["/mnt/pvc/held-out", "/mnt/pvc/rows"]


def test_prepare_fills_the_model_cache_and_train_reads_it() -> None:
    for stage, pod in pods("model-cache").items():
        (volume,) = [each for each in pod["volumes"] if each["name"] == "model-cache"]
        assert volume["persistentVolumeClaim"] == {"claimName": "models"}
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model-cache"]
        assert mount.get("readOnly", False) == (stage is Stage.TRAIN)
    assert json.loads(children("model-cache")["config-map"]["data"]["run.json"])["modelCache"] is True


# --- what a class adds --------------------------------------------------------------------------------------------


def test_a_class_says_where_the_pods_of_each_stage_run() -> None:
    made = pods("overlaid")
    assert made[Stage.TRAIN]["nodeSelector"] == {"gpu": "h100"}
    assert made[Stage.TRAIN]["runtimeClassName"] == "nvidia"
    assert made[Stage.TRAIN]["priorityClassName"] == "batch"
    assert made[Stage.TRAIN]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert made[Stage.PREPARE]["tolerations"] == [{"operator": "Exists"}]
    assert not {"nodeSelector", "runtimeClassName", "priorityClassName"} & set(made[Stage.PREPARE])


@pytest.mark.parametrize("stage", Stage)
def test_a_class_adds_to_the_pods_and_changes_nothing_of_them(stage: Stage) -> None:
    plain, overlaid = pods("minimal")[stage], pods("overlaid")[stage]
    added = [volume for volume in overlaid["volumes"] if volume["name"].startswith("class-")]
    assert [volume for volume in overlaid["volumes"] if volume not in added] == plain["volumes"]
    assert len(added) == len(OVERLAY["pod"]["volumes"])
    assert overlaid["securityContext"] == plain["securityContext"]
    assert overlaid["automountServiceAccountToken"] is False
    (before,), (after,) = plain["containers"], overlaid["containers"]
    for field in ("args", "image", "resources", "securityContext", "workingDir"):
        assert after[field] == before[field]
    names = [entry["name"] for entry in after["env"]]
    assert len(names) == len(set(names)), "no variable is set twice"
    assert all(entry in after["env"] for entry in before["env"])


@pod_cases
def test_what_the_operator_sets_is_what_a_class_may_not(pod: Body) -> None:
    """The schema of the class refuses these names and folders."""
    container = pod["containers"][0]
    by_class = {entry["name"] for entry in OVERLAY["pod"]["env"]}
    assert {entry["name"] for entry in container["env"]} - by_class <= set(OWN_VARIABLES)
    own = [mount["mountPath"] for mount in container["volumeMounts"] if not mount["name"].startswith("class-")]
    assert all(any(path == folder or path.startswith(f"{folder}/") for folder in OWN_FOLDERS) for path in own)


def test_the_labels_by_which_pods_are_found_are_the_operators() -> None:
    template = children("overlaid")["train-job"]["spec"]["template"]["metadata"]
    plain = children("minimal")["train-job"]["spec"]["template"]["metadata"]
    assert template["labels"] == {"example.com/cost-centre": "ml"} | plain["labels"]
    assert template["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert all(key.startswith(OWN_PREFIXES) for key in plain["labels"])


# --- defaults of a class ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "resolved"),
    [({}, (None, 3)), ({"maxSteps": 10}, (10, None)), ({"numTrainEpochs": 1}, (None, 1))],
    ids=["unset", "steps", "epochs"],
)
def test_a_class_says_how_long_runs_train_that_do_not(asked: Body, resolved: tuple[int | None, int | None]) -> None:
    run = a_settled(a_run(training=asked), **OVERLAY).run_file
    assert (run.training.max_steps, run.training.num_train_epochs) == resolved


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        ({}, {"name": "hub", "key": "token", "optional": True}),
        ({"tokenSecretRef": {"name": "mine"}}, {"name": "mine", "key": "token"}),
    ],
    ids=["of the class", "of the run"],
)
def test_the_token_of_a_class_is_for_runs_that_name_none_and_may_be_missing(model: Body, reference: Body) -> None:
    run = a_run(model={"name": "meta-llama/Llama-3.2-3B-Instruct"} | model)
    request = StageRequest(run=run, settled=a_settled(run, **OVERLAY), stage=Stage.TRAIN, attempt=1)
    env = environment(stage_job(request)["spec"]["template"]["spec"])
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == reference


def test_one_claim_for_model_and_rows_is_one_volume() -> None:
    run = a_run(model={"name": "pvc://both/model"}, dataset={"uri": "pvc://both/rows.jsonl"})
    settled = settle(run, class_name="x", class_spec=LoraFineTuneClassSpec.model_validate(class_spec()))
    job = stage_job(StageRequest(run=run, settled=settled, stage=Stage.PREPARE, attempt=1))
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert sum("persistentVolumeClaim" in volume for volume in volumes) == 1


def test_reward_functions_are_mounted_into_prepare_only() -> None:
    found = pods("grpo")
    (mount,) = [each for each in found[Stage.PREPARE]["containers"][0]["volumeMounts"] if "judges" in each["mountPath"]]
    assert mount == {"name": mount["name"], "mountPath": "/mnt/configmap/judges", "readOnly": True}
    assert "judges" in json.dumps(found[Stage.PREPARE]["volumes"])
    assert "judges" not in json.dumps(found[Stage.TRAIN])


def test_config_maps_with_rows_are_mounted_into_prepare_only_and_may_be_missing() -> None:
    made = pods("many-sources")
    rows = {v["name"]: v["configMap"] for v in made[Stage.PREPARE]["volumes"] if v["name"].startswith("rows-")}
    keys = [{"key": "a.jsonl", "path": "a.jsonl"}, {"key": "b.jsonl", "path": "b.jsonl"}]
    assert rows["rows-1"] == {"name": "rows", "items": keys, "optional": True}
    mounts = {m["name"]: m for m in made[Stage.PREPARE]["containers"][0]["volumeMounts"]}
    assert mounts["rows-0"] == {"name": "rows-0", "mountPath": "/mnt/configmap/held-out", "readOnly": True}
    assert mounts["rows-1"]["mountPath"] == "/mnt/configmap/rows"
    assert not any(volume["name"].startswith("rows-") for volume in made[Stage.TRAIN]["volumes"])


# --- the run file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_run_file_is_read_back_as_it_was(scenario: str) -> None:
    body = children(scenario)["config-map"]
    assert body["immutable"] is True
    settled = read_config_map(json.loads(json.dumps(body)))
    assert settled.class_name == CLASS_NAME
    run_file = RunFile.model_validate_json(body["data"]["run.json"])
    assert run_file == settled.run_file
    assert run_file.identity.uid == UID
    assert run_file.storage.work_uri.endswith(f"://platform/runs/{NAMESPACE}"), "the placeholder is resolved"


def test_the_run_file_names_secrets_and_holds_none() -> None:
    text = json.dumps(children("private-model")["config-map"]["data"])
    assert "AWS" not in text
    assert '\\"tokenSecretRef\\"' in text


def test_defaults_are_resolved_in_the_run_file() -> None:
    run_file = json.loads(children("minimal")["config-map"]["data"]["run.json"])
    assert run_file["lora"]["r"] == 16
    assert run_file["training"]["lrSchedulerType"] == "linear"
    assert run_file["evaluation"]["holdoutFraction"] == 0.05
