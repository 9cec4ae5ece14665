"""All names that the operator gives or recognises: API group, labels, annotations, children."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

GROUP = "lora-operator.io"
VERSION = "v1beta1"
"""The version of the API that the operator speaks and the API server stores."""
DEPRECATED_VERSIONS = ("v1alpha1",)
"""Versions with the same schema that the API server still serves."""
API_VERSION = f"{GROUP}/{VERSION}"

RUN_KIND = "LoraFineTune"
RUN_PLURAL = "lorafinetunes"
CLASS_KIND = "LoraFineTuneClass"
CLASS_PLURAL = "lorafinetuneclasses"

FIELD_MANAGER = "lora-operator"
LEASE_NAME = "lora-operator"
DEFAULT_CLASS_ANNOTATION = f"{GROUP}/is-default-class"

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "lora-operator"
MANAGED_BY_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
RUN_LABEL = f"{GROUP}/run"
RUN_UID_LABEL = f"{GROUP}/run-uid"
STAGE_LABEL = f"{GROUP}/stage"
ATTEMPT_LABEL = f"{GROUP}/attempt"
CONTAINER = "trainer"
"""The container of ours in a pod. Clusters add others, which come and go as they like."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
"""Completion index of a pod in an Indexed Job, from 0; set by the Job controller."""

KUEUE_GROUP = "kueue.x-k8s.io"
QUEUE_LABEL = f"{KUEUE_GROUP}/queue-name"
"""On a Job: the LocalQueue of its namespace that it waits in."""
PRIORITY_CLASS_LABEL = f"{KUEUE_GROUP}/priority-class"
"""On a Job: its WorkloadPriorityClass."""
JOB_UID_LABEL = f"{KUEUE_GROUP}/job-uid"
"""On a Workload: the uid of its Job."""
MAX_LABEL_VALUE = 63

MAX_RUN_NAME = 48
"""Leaves room for -prepare-99 and the pod's own suffix within the 63 characters of a label."""


class RunId(NamedTuple):
    """What tells one LoraFineTune from all others, also from earlier ones of its name. Labels and owners name a uid,
    which anyone may write in any namespace: it means the run only in the run's own."""

    namespace: str
    uid: str


class Stage(StrEnum):
    """The stages of a run, each with its own Jobs."""

    PREPARE = "prepare"
    TRAIN = "train"
    CLEANUP = "cleanup"
    """After the end of the run: its prepared rows and checkpoints are deleted from the bucket."""


def job_name(run: str, stage: Stage, attempt: int) -> str:
    """Name of the Job of an attempt: deterministic, so that a Job cannot be created twice."""
    return f"{run}-{stage}-{attempt}"


def config_map_name(run: str, uid: str) -> str:
    """Name of the ConfigMap with the resolved run file. It is another one for each run of a name, because a kubelet
    keeps the content of an immutable ConfigMap by its name: for as long as any pod mounts it, a new ConfigMap of that
    name has the old content there."""
    return f"{run}-run-{uid.partition('-')[0]}"


def service_name(run: str) -> str:
    """Name of the headless Service of a run on several nodes. It begins with a letter, as names of Services must; names
    of runs need not."""
    return f"nodes-{run}"


def run_selector(uid: str) -> str:
    """Label selector for all children of one LoraFineTune, without those of an earlier one with the same name."""
    return f"{RUN_UID_LABEL}={uid}"
