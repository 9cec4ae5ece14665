"""What a class adds to its pods: a typed part of the pod template. What the operator sets itself (command, security
context, its own variables, folders and labels) cannot be named here."""

from __future__ import annotations

from typing import Annotated, Literal

from lora_trainer.contract.credentials import (
    HUB_TOKEN_VARIABLE,
    OPTIONAL_CREDENTIALS,
    REQUIRED_CREDENTIALS,
    SIGNING_KEY_VARIABLE,
)
from lora_trainer.contract.run import (
    CONFIG_MAP_MOUNT_ROOT,
    MODEL_CACHE,
    PVC_MOUNT_ROOT,
    RUN_FILE,
    RUN_FILE_SHA256_VARIABLE,
    SCRATCH,
)
from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.names import SUBDOMAIN, ObjectName
from lora_trainer.contract.wire import WireModel
from pydantic import ConfigDict, Field

from lora_operator.api.affinity import Affinity, SpreadConstraint
from lora_operator.naming import GROUP, MANAGED_BY_LABEL

OWN_VARIABLES = (
    "HOME",
    "TMPDIR",
    "USER",
    "LOGNAME",
    "NODE_NAME",
    "HF_ENDPOINT",
    RUN_FILE_SHA256_VARIABLE,
    HUB_TOKEN_VARIABLE,
    SIGNING_KEY_VARIABLE,
    *(name for names in REQUIRED_CREDENTIALS.values() for name in names),
    *OPTIONAL_CREDENTIALS,
)
"""Variables that the operator sets."""
OWN_FOLDERS = (
    str(SCRATCH),
    "/tmp",
    "/dev",
    "/proc",
    "/sys",
    str(RUN_FILE.parent),
    str(PVC_MOUNT_ROOT),
    str(CONFIG_MAP_MOUNT_ROOT),
    str(MODEL_CACHE),
)
"""Folders that the operator mounts, or the system."""
OWN_PREFIXES = (f"{GROUP}/", MANAGED_BY_LABEL, "batch.kubernetes.io/", "controller-uid", "job-name")
"""Beginnings of labels and annotations that mean something to the operator and the Job controller."""

LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY = rf"^({SUBDOMAIN}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
LONGEST_PREFIX = r"^([^/]{1,253}/)?[^/]+$"

Labels = Annotated[dict[str, Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]], Field(max_length=32)]
Annotations = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)]


def _listed(texts: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{text}'" for text in texts) + "]"


def _keys(field: str) -> dict[str, str]:
    return rule(
        f"!has(self.{field}) || self.{field}.all(key, key.matches('{LABEL_KEY}') && key.matches('{LONGEST_PREFIX}'))",
        f"The keys of {field} look like name or example.com/name, of letters, digits, '-', '_' and '.', the name of at "
        "most 63 characters.",
        field=field,
    )


def _foreign_keys(field: str) -> dict[str, str]:
    return rule(
        f"!has(self.{field}) || self.{field}.all(key, !{_listed(OWN_PREFIXES)}.exists(own, key.startsWith(own)))",
        f"pod.{field} may not begin with {', '.join(OWN_PREFIXES)}: the operator and the Job controller use them.",
        field=field,
    )


class Toleration(WireModel):
    """A taint that pods tolerate."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
                "A toleration with operator Exists takes no value.",
            ),
            rule(
                "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
                "A toleration with operator Equal needs a key.",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "A toleration with tolerationSeconds needs effect NoExecute.",
            ),
        )
    )

    key: Annotated[str, Field(min_length=1, max_length=316, pattern=LABEL_KEY)] | None = None
    """Key of the taint. Unset, with operator Exists: every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists matches every value, Equal the one in value."""
    value: Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)] | None = None
    """Value of the taint, with operator Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Unset: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=365 * 24 * 3600)] | None = None
    """Seconds for which a taint with effect NoExecute is tolerated. Unset: forever."""


class Scheduling(WireModel):
    """Where pods of a stage run."""

    model_config = ConfigDict(json_schema_extra=rules(_keys("nodeSelector")))

    node_selector: Labels | None = None
    """Labels that the pods' nodes must have."""
    tolerations: Annotated[
        tuple[Toleration, ...], Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """Taints that the pods tolerate."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pods (nvidia, where it is not the nodes' default)."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pods."""
    scheduler_name: ObjectName | None = None
    """Scheduler of the pods. Unset: the cluster's default."""
    affinity: Affinity | None = None
    """Nodes and other pods that the pods must or should be near to, or far from."""
    topology_spread_constraints: Annotated[
        tuple[SpreadConstraint, ...], Field(max_length=4, json_schema_extra={"x-kubernetes-list-type": "atomic"})
    ] = ()
    """How evenly the pods are spread."""


class PullSecret(WireModel):
    """A Secret in the namespace of the run."""

    name: ObjectName
    """Name of the Secret."""


class Variable(WireModel):
    """One environment variable."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Its name."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value, visible to all who may read the class. Put secrets into a volume instead."""


class ClaimSource(WireModel):
    """A PersistentVolumeClaim in the namespace of the run."""

    claim_name: ObjectName
    """Name of the claim."""


class ConfigMapSource(WireModel):
    """A ConfigMap in the namespace of the run."""

    name: ObjectName
    """Name of the ConfigMap."""


class SecretSource(WireModel):
    """A Secret in the namespace of the run."""

    secret_name: ObjectName
    """Name of the Secret."""


class Volume(WireModel):
    """One volume and where it is mounted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret)].filter(one, one).size() == 1",
                "pod.volumes takes exactly one of persistentVolumeClaim, configMap and secret.",
            ),
            rule(
                f"!{_listed(OWN_FOLDERS)}.exists(own, self.mountPath == own || self.mountPath.startsWith(own + '/')"
                " || own.startsWith(self.mountPath + '/'))",
                f"pod.volumes may not be mounted in or above {', '.join(OWN_FOLDERS)}: the operator or the system uses"
                " them.",
                field="mountPath",
            ),
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Its name."""
    mount_path: Annotated[str, Field(min_length=2, max_length=256, pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")]
    """Folder that it is mounted at."""
    read_only: bool = True
    """Whether pods may not write to it."""
    persistent_volume_claim: ClaimSource | None = None
    """The volume is a claim."""
    config_map: ConfigMapSource | None = None
    """The volume holds the keys of a ConfigMap."""
    secret: SecretSource | None = None
    """The volume holds the keys of a Secret."""


class PodOverlay(WireModel):
    """Additions to all pods of the class."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!has(self.env) || self.env.all(variable, !(variable.name in {_listed(OWN_VARIABLES)}))",
                f"pod.env may not name {', '.join(OWN_VARIABLES)}: the operator sets them.",
                field="env",
            ),
            rule(
                "!has(self.volumes)"
                " || self.volumes.all(one, self.volumes.filter(other, other.mountPath == one.mountPath).size() == 1)",
                "Two of pod.volumes have the same mountPath: give each its own.",
                field="volumes",
            ),
            *(each(field) for field in ("labels", "annotations") for each in (_keys, _foreign_keys)),
        )
    )

    labels: Labels | None = None
    """Labels of the pods."""
    annotations: Annotations | None = None
    """Annotations of the pods."""
    service_account_name: ObjectName | None = None
    """ServiceAccount in the namespace of the run. Its token is not mounted. Unset: that of storage.credentials, or
    default."""
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = ()
    """Secrets in the namespace of the run for pulling the images."""
    env: Annotated[
        tuple[Variable, ...],
        Field(
            max_length=32, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = ()
    """Environment variables (HTTPS_PROXY, NCCL_DEBUG)."""
    volumes: Annotated[
        tuple[Volume, ...],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = ()
    """Volumes from the namespace of the run (certificates, shared data). Folders of the node are not possible."""
