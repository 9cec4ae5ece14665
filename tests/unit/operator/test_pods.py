"""The pods of a run: what must be in them, what never is, and what a class adds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lora_operator.api.lorafinetune import LoraFineTuneStatus
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.api.pod_overlay import OWN_FOLDERS, OWN_PREFIXES, OWN_VARIABLES
from lora_operator.naming import Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import resolve
from lora_trainer.contract.credentials import SIGNING_KEY_VARIABLE
from lora_trainer.contract.run import RUN_FILE_SHA256_VARIABLE

from tests.builders import CLASS_NAME, a_resolved, a_run, class_spec, rows_at
from tests.unit.operator.scenarios import MIRROR, OVERLAY, SCENARIOS, WORK, children, environment, pods

Body = dict[str, Any]
ALL_PODS = {f"{scenario}-{stage}": pod for scenario in SCENARIOS for stage, pod in pods(scenario).items()}
OF_RUN_FILE = (Stage.PREPARE, Stage.TRAIN)
"""The stages whose pods do what the run file says."""
pod_cases = pytest.mark.parametrize("pod", ALL_PODS.values(), ids=ALL_PODS.keys())


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
def test_all_but_cpu_and_disk_is_limited_to_what_is_requested(pod: Body) -> None:
    resources = pod["containers"][0]["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    # The volumes have limits of disk of their own.
    unlimited = ("cpu", "ephemeral-storage")
    assert resources["limits"] == {
        name: value for name, value in resources["requests"].items() if name not in unlimited
    }
    room = next(volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "scratch")
    assert resources["requests"]["ephemeral-storage"] == room["sizeLimit"]


@pytest.mark.parametrize("name", ALL_PODS)
def test_only_the_train_pod_of_a_gpu_class_takes_an_accelerator(name: str) -> None:
    limits = ALL_PODS[name]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (name.endswith("-train") and not name.startswith("cpu-class"))


# --- accelerators, storage and volumes ----------------------------------------------------------------------------


def test_the_train_pod_asks_for_as_many_gpus_as_the_run() -> None:
    run = a_run(parallelism={"gpus": 4})
    resolved = resolve(run, class_name=CLASS_NAME, class_spec=LoraFineTuneClassSpec.model_validate(class_spec()))
    request = StageRequest(run=run, resolved=resolved, stage=Stage.TRAIN, attempt=1)
    (container,) = stage_job(request)["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert resolved.run_file.parallelism.gpus == 4


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


@pytest.mark.parametrize("stage", OF_RUN_FILE)
def test_the_signing_key_stays_a_reference(stage: Stage) -> None:
    env = environment(pods("private-model")[stage])
    assert env[SIGNING_KEY_VARIABLE]["valueFrom"]["secretKeyRef"] == {"name": "signing", "key": "private.pem"}
    assert SIGNING_KEY_VARIABLE not in environment(pods("minimal")[stage])


def test_the_mirror_of_the_hub_is_the_class_s() -> None:
    made = pods("many-sources")
    assert all(environment(made[stage])["HF_ENDPOINT"]["value"] == MIRROR for stage in OF_RUN_FILE)
    assert "HF_ENDPOINT" not in environment(pods("minimal")[Stage.PREPARE])


def test_claims_are_mounted_once_and_read_only() -> None:
    pod = pods("private-model")[Stage.PREPARE]
    claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [{"claimName": "held-out", "readOnly": True}, {"claimName": "rows", "readOnly": True}]
    paths = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"].startswith("claim")]
    assert paths == ["/mnt/pvc/held-out", "/mnt/pvc/rows"]


def test_prepare_fills_the_model_cache_and_train_reads_it() -> None:
    made = pods("model-cache")
    for stage in OF_RUN_FILE:
        pod = made[stage]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "model-cache"]
        assert volume["persistentVolumeClaim"] == {"claimName": "models"}
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model-cache"]
        assert mount.get("readOnly", False) == (stage is Stage.TRAIN)
    assert json.loads(children("model-cache")["config-map"]["data"]["run.json"])["modelCache"] is True


def test_rows_of_further_sets_are_mounted() -> None:
    addresses = ("pvc://sums/held-out.jsonl", "configmap://codes/held-out.jsonl")
    sets = [rows_at(address) | {"name": f"set-{number}"} for number, address in enumerate(addresses)]
    run = a_run(evaluation={"datasets": sets})
    resolved = resolve(run, class_name="x", class_spec=LoraFineTuneClassSpec.model_validate(class_spec()))
    job = stage_job(StageRequest(run=run, resolved=resolved, stage=Stage.PREPARE, attempt=1))
    mounts = job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"/mnt/pvc/sums", "/mnt/configmap/codes"} <= {mount["mountPath"] for mount in mounts}


def test_one_claim_for_model_and_rows_is_one_volume() -> None:
    run = a_run(model=rows_at("pvc://both/model"), dataset=rows_at("pvc://both/rows.jsonl"))
    resolved = resolve(run, class_name="x", class_spec=LoraFineTuneClassSpec.model_validate(class_spec()))
    job = stage_job(StageRequest(run=run, resolved=resolved, stage=Stage.PREPARE, attempt=1))
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


# --- cleanup ------------------------------------------------------------------------------------------------------


def test_a_cleanup_pod_knows_the_work_folder_and_the_keys_of_the_bucket_and_nothing_else_of_the_run() -> None:
    for scenario in SCENARIOS:
        pod = pods(scenario)[Stage.CLEANUP]
        (container,) = pod["containers"]
        assert container["args"][:2] == ["cleanup", f"--work={WORK.uri}"]
        named = {volume["name"] for volume in pod["volumes"] if not volume["name"].startswith("class-")}
        assert named == {"scratch", "tmp"}
        assert not {"HF_TOKEN", SIGNING_KEY_VARIABLE} & set(environment(pod))
    assert environment(pods("minimal")[Stage.CLEANUP])["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"] == (
        "bucket"
    )
    assert pods("workload-identity")[Stage.CLEANUP]["serviceAccountName"] == "bucket-writer"


def test_a_cleanup_asks_the_store_of_the_class() -> None:
    run = a_run(status=LoraFineTuneStatus(work=WORK))
    storage = class_spec()["storage"] | {"endpoint": "https://store.example", "region": "eu-1"}
    request = StageRequest(run=run, resolved=a_resolved(run, storage=storage), stage=Stage.CLEANUP, attempt=2)
    job = stage_job(request)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][2:] == ["--endpoint=https://store.example", "--region=eu-1"]
    assert job["spec"]["activeDeadlineSeconds"], "it does not wait for a node forever"


# --- what a class adds --------------------------------------------------------------------------------------------


def test_a_class_says_where_the_pods_of_each_stage_run() -> None:
    made = pods("overlaid")
    assert made[Stage.TRAIN]["nodeSelector"] == {"gpu": "h100"}
    assert made[Stage.TRAIN]["runtimeClassName"] == "nvidia"
    assert made[Stage.TRAIN]["priorityClassName"] == "batch"
    assert made[Stage.TRAIN]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert made[Stage.PREPARE]["tolerations"] == [{"operator": "Exists"}]
    for field in ("schedulerName", "affinity", "topologySpreadConstraints"):
        assert made[Stage.TRAIN][field] == OVERLAY["train"][field]
    assert not (set(OVERLAY["train"]) - {"tolerations"}) & set(made[Stage.PREPARE])


def test_a_class_gives_train_pods_network_cards_and_shared_memory() -> None:
    pod = pods("two-nodes")[Stage.TRAIN]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["rdma/hca"] == resources["requests"]["rdma/hca"] == "1"
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


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
    # The two runs ask for different things, so their run files differ.
    assert all(entry in after["env"] for entry in before["env"] if entry["name"] != RUN_FILE_SHA256_VARIABLE)


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
    run = a_resolved(a_run(training=asked), **OVERLAY).run_file
    assert (run.training.max_steps, run.training.num_train_epochs) == resolved


@pytest.mark.parametrize(
    ("hub", "reference"),
    [
        ({}, {"name": "hub", "key": "token", "optional": True}),
        ({"tokenSecretRef": {"name": "mine"}}, {"name": "mine", "key": "token"}),
    ],
    ids=["of the class", "of the run"],
)
def test_the_token_of_a_class_is_for_runs_that_name_none_and_may_be_missing(hub: Body, reference: Body) -> None:
    run = a_run(huggingFace=hub)
    request = StageRequest(run=run, resolved=a_resolved(run, **OVERLAY), stage=Stage.TRAIN, attempt=1)
    env = environment(stage_job(request)["spec"]["template"]["spec"])
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == reference
