"""The children of a run: what the golden manifests show, its Jobs and its run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from lora_operator import naming
from lora_operator.naming import Stage
from lora_operator.workloads.draft import StageRequest
from lora_operator.workloads.job import stage_job
from lora_operator.workloads.resolved import read_config_map
from lora_operator.workloads.service import headless_service
from lora_trainer.contract.run import RunFile

from tests.builders import CLASS_NAME, NAME, NAMESPACE, UID, a_resolved, a_run
from tests.unit.operator.scenarios import PARTS, SCENARIOS, SLIM, children, pods

Body = dict[str, Any]
GOLDEN = Path(__file__).parents[2] / "golden"


# --- golden -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_manifests_are_as_they_were(scenario: str, part: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{scenario}-{part}.yaml"
    rendered = yaml.safe_dump(children(scenario)[part], sort_keys=False, width=120)
    if request.config.getoption("--update-golden"):
        path.write_text(rendered)
    assert path.read_text() == rendered, "look at the difference; if it is meant, run pytest --update-golden"


def test_there_is_no_golden_file_without_a_scenario() -> None:
    expected = {f"{s}-{part}.yaml" for s in SCENARIOS for part in PARTS}
    assert {path.name for path in GOLDEN.glob("*.yaml")} == expected


# --- Jobs ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("part", PARTS)
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


@pytest.mark.parametrize("stage", Stage)
def test_the_longest_name_leaves_room_for_pods(stage: Stage) -> None:
    name = naming.job_name("a" * naming.MAX_RUN_NAME, stage, 99)
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
    resolved = a_resolved(run, defaults=defaults | {"workloadPriorityClassName": "overnight"})
    jobs = [
        stage_job(StageRequest(run=run, resolved=resolved, stage=stage, attempt=1))
        for stage in (Stage.PREPARE, Stage.TRAIN)
    ]
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
    whole = "registry.example/lora-trainer:0.1.0"
    assert images == {Stage.PREPARE: SLIM, Stage.TRAIN: whole, Stage.CLEANUP: SLIM}
    assert pods("minimal")[Stage.PREPARE]["containers"][0]["image"] == "registry.example/lora-trainer:0.1.0"


# --- the run file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_run_file_is_read_back_as_it_was(scenario: str) -> None:
    body = children(scenario)["config-map"]
    assert body["immutable"] is True
    resolved = read_config_map(json.loads(json.dumps(body)))
    assert resolved.class_name == CLASS_NAME
    run_file = RunFile.model_validate_json(body["data"]["run.json"])
    assert run_file == resolved.run_file
    assert run_file.identity.uid == UID
    assert run_file.storage.work_uri.endswith(f"://platform/runs/{NAMESPACE}"), "the placeholder is resolved"


def test_the_run_file_names_secrets_and_holds_none() -> None:
    text = json.dumps(children("private-model")["config-map"]["data"])
    assert "AWS" not in text
    assert '\\"tokenSecretRef\\"' in text


def test_defaults_are_resolved_in_the_run_file() -> None:
    run_file = RunFile.model_validate_json(children("minimal")["config-map"]["data"]["run.json"])
    assert run_file.lora.r == 16
    assert run_file.training.lr_scheduler_type == "linear"
    assert run_file.evaluation.holdout_fraction == 0.05
