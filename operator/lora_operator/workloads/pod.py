"""The pod of a stage, as an ordered list of small transforms of a draft. Every pod meets Pod Security `restricted`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from math import ceil

from lora_trainer.contract.credentials import (
    HUB_TOKEN_VARIABLE,
    OPTIONAL_CREDENTIALS,
    REQUIRED_CREDENTIALS,
    SIGNING_KEY_VARIABLE,
)
from lora_trainer.contract.progress import HEALTH_PATH
from lora_trainer.contract.run import (
    CONFIG_MAP_MOUNT_ROOT,
    MODEL_CACHE,
    PVC_MOUNT_ROOT,
    RENDEZVOUS_PORT,
    RUN_FILE,
    RUN_FILE_SHA256_VARIABLE,
    SCRATCH,
)
from lora_trainer.contract.spec.places import CLAIM, CONFIG_MAP, ConfigMapKeyRef

from lora_operator.naming import ATTEMPT_LABEL, CONTAINER, STAGE_LABEL, Stage, config_map_name, job_name, service_name
from lora_operator.workloads.draft import PORT_NAME, Entry, PodDraft, StageRequest, Transform
from lora_operator.workloads.metadata import child_labels
from lora_operator.workloads.overlay import overlay, scheduling
from lora_operator.workloads.resolved import RUN_KEY

CPU = {Stage.PREPARE: "2", Stage.TRAIN: "4"}
MEMORY = {Stage.PREPARE: "4Gi", Stage.TRAIN: "32Gi"}
"""Requests of a pod where its class sets none."""
CLEANUP_SCRATCH = "1Gi"
CLEANUP_LIMITS = {"memory": "256Mi"}
CLEANUP_REQUESTS = {"cpu": "100m", "ephemeral-storage": CLEANUP_SCRATCH, **CLEANUP_LIMITS}
USER = 1000
TEMPORARY = "/tmp"
PROBE_SECONDS = 10


def trainer_command(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the trainer's arguments; the image's entry point is `python -m lora_trainer`."""
    args = (request.stage.value, "--run", str(RUN_FILE))
    if request.stage is Stage.TRAIN:
        args += ("--attempt", str(request.attempt), "--oom-shrinks", str(request.oom_shrinks))
    return replace(draft, args=args)


def cleanup_command(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the trainer's arguments of a cleanup. It needs no run file, which is deleted with the run's Jobs."""
    storage, work = request.resolved.class_spec.storage, request.run.status.work
    if work is None:
        raise ValueError(f"the run {request.run.full_name} has no work folder in its status")
    options = {"work": work.uri, "endpoint": storage.endpoint, "region": storage.region}
    given = tuple(f"--{name}={value}" for name, value in options.items() if value is not None)
    return replace(draft, args=(request.stage.value, *given))


def rendezvous(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the address of the first pod, at which several pods meet; the headless Service gives it a name."""
    if request.nodes == 1:
        return draft
    service = service_name(request.run.name)
    first = f"{job_name(request.run.name, request.stage, request.attempt)}-0.{service}"
    return replace(
        draft,
        args=(*draft.args, "--first-node", first),
        ports=(*draft.ports, {"name": "rendezvous", "containerPort": RENDEZVOUS_PORT}),
        subdomain=service,
    )


def compute(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add requests and limits. Only the train pod of a GPU class requests accelerators; a cleanup pod only lists and
    deletes."""
    if request.stage is Stage.CLEANUP:
        return replace(draft, requests=CLEANUP_REQUESTS, limits=CLEANUP_LIMITS)
    spec = request.resolved.class_spec
    of_stage = request.of_stage
    requests, limits = dict(of_stage.resources.requests or {}), dict(of_stage.resources.limits or {})
    limits.setdefault("memory", requests.get("memory", MEMORY[request.stage]))
    if request.stage is Stage.TRAIN and (gpu := spec.accelerator.gpu) is not None:
        limits[gpu.resource_name] = str(request.resolved.run_file.parallelism.gpus)
    # CPU has a request and no limit by default, so that a pod may use idle CPUs of its node. Disk has none either: its
    # volumes have limits of their own. The request makes the scheduler choose a node with as much room.
    defaults = {"cpu": CPU[request.stage], "ephemeral-storage": _scratch(request)}
    return replace(draft, requests={**defaults, **limits, **requests}, limits=limits)


def grace(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the grace period in which a train pod saves its checkpoint; a prepare pod has nothing to save."""
    if request.stage is Stage.PREPARE:
        return draft
    return replace(draft, grace_seconds=request.resolved.class_spec.termination_grace_period_seconds)


def run_file(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the resolved run file from the run's ConfigMap, and what the trainer knows it by."""
    sha256 = hashlib.sha256(request.resolved.data[RUN_KEY].encode()).hexdigest()
    source = {"name": config_map_name(request.run.name, request.run.uid), "items": [{"key": RUN_KEY, "path": RUN_KEY}]}
    return draft.plus(
        env=({"name": RUN_FILE_SHA256_VARIABLE, "value": sha256},),
        volumes=({"name": "run", "configMap": source},),
        mounts=({"name": "run", "mountPath": str(RUN_FILE.parent), "readOnly": True},),
    )


def writable_folders(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add emptyDirs for HOME and the temporary folder, because the root file system is read-only."""
    size = _scratch(request)
    return draft.plus(
        env=(
            {"name": "HOME", "value": str(SCRATCH)},
            {"name": "TMPDIR", "value": TEMPORARY},
            # Libraries call getpass.getuser(), and uid 1000 has no entry in the image's passwd.
            {"name": "USER", "value": CONTAINER},
            {"name": "LOGNAME", "value": CONTAINER},
            # For messages about an unhealthy node.
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ),
        volumes=(
            {"name": "scratch", "emptyDir": {"sizeLimit": size}},
            {"name": "tmp", "emptyDir": {"sizeLimit": size}},
        ),
        mounts=({"name": "scratch", "mountPath": str(SCRATCH)}, {"name": "tmp", "mountPath": TEMPORARY}),
    )


def _scratch(request: StageRequest) -> str:
    return CLEANUP_SCRATCH if request.stage is Stage.CLEANUP else request.of_stage.scratch


def shared_memory(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add /dev/shm, through which processes pass data; by default it has only 64 MiB."""
    if request.stage is Stage.PREPARE:
        return draft
    size = request.resolved.class_spec.train.shared_memory
    return draft.plus(
        volumes=({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},),
        mounts=({"name": "shm", "mountPath": "/dev/shm"},),
    )


def claims(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the PersistentVolumeClaims that a run names, read-only."""
    names = sorted({address.split("/")[2] for address in _addresses(request) if address.startswith(CLAIM)})
    return draft.plus(
        volumes=tuple(
            {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
            for index, name in enumerate(names)
        ),
        mounts=tuple(
            {"name": f"claim-{index}", "mountPath": str(PVC_MOUNT_ROOT / name), "readOnly": True}
            for index, name in enumerate(names)
        ),
    )


def model_cache(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the class's claim with base models: prepare fills it, train only reads."""
    cache = request.resolved.class_spec.model_cache
    if cache is None:
        return draft
    mount = {"name": "model-cache", "mountPath": str(MODEL_CACHE)}
    return draft.plus(
        volumes=({"name": "model-cache", "persistentVolumeClaim": {"claimName": cache.claim_name}},),
        mounts=(mount | ({"readOnly": True} if request.stage is Stage.TRAIN else {}),),
    )


def config_maps(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the ConfigMaps with rows and with reward functions; only prepare reads them.

    They are optional: a missing one leaves its folder empty, which prepare reports. A pod that waits for a ConfigMap
    would not report it.
    """
    if request.stage is Stage.TRAIN:
        return draft
    keys: dict[str, set[str]] = {}
    for address in _addresses(request):
        if address.startswith(CONFIG_MAP):
            _, _, name, key = address.split("/")
            keys.setdefault(name, set()).add(key)
    for reference in _reward_code(request):
        keys.setdefault(reference.name, set()).add(reference.key)
    named = [(f"rows-{index}", name, sorted(keys[name])) for index, name in enumerate(sorted(keys))]
    return draft.plus(
        volumes=tuple(
            {
                "name": volume,
                "configMap": {"name": name, "items": [{"key": key, "path": key} for key in of], "optional": True},
            }
            for volume, name, of in named
        ),
        mounts=tuple(
            {"name": volume, "mountPath": str(CONFIG_MAP_MOUNT_ROOT / name), "readOnly": True}
            for volume, name, _ in named
        ),
    )


def _addresses(request: StageRequest) -> tuple[str, ...]:
    """The addresses of all data that the run reads."""
    run = request.resolved.run_file
    evaluated = (run.evaluation.dataset, *run.evaluation.datasets)
    places = (*run.dataset.all_sources(), *(place for place in evaluated if place))
    return (run.model.address, *(place.address for place in places))


def _reward_code(request: StageRequest) -> tuple[ConfigMapKeyRef, ...]:
    """References to the user's reward functions."""
    grpo = request.resolved.run_file.training.grpo
    return tuple(reward.python.config_map_ref for reward in grpo.rewards if reward.python) if grpo else ()


def storage_access(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add bucket credentials: keys of the tenant's own Secret, or a ServiceAccount with a workload identity.

    The keys for the store of workUri are required; those for other stores of datasets and outputs are optional.
    """
    storage = request.resolved.class_spec.storage
    if storage.credentials.service_account_name is not None:
        return replace(draft, service_account=storage.credentials.service_account_name)
    secret = storage.credentials.secret_name or ""
    required = REQUIRED_CREDENTIALS[storage.work_uri.partition("://")[0]]
    others = tuple(name for names in REQUIRED_CREDENTIALS.values() for name in names if name not in required)
    return draft.plus(
        env=tuple(_secret_env(name, secret=secret, key=name) for name in required)
        + tuple(_secret_env(name, secret=secret, key=name, optional=True) for name in others + OPTIONAL_CREDENTIALS)
    )


def hub_mirror(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the class's address of the Hugging Face Hub."""
    endpoint = request.resolved.class_spec.hub_endpoint
    return draft.plus(env=({"name": "HF_ENDPOINT", "value": endpoint},)) if endpoint else draft


def hub_token(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the Hugging Face token for private models and datasets."""
    reference = request.resolved.run_file.hugging_face.token_secret_ref
    if reference is None:
        return draft
    # A Secret that only the class names may be missing, because most models need no token.
    optional = request.run.spec.hugging_face.token_secret_ref is None
    secret = _secret_env(HUB_TOKEN_VARIABLE, secret=reference.name, key=reference.key, optional=optional)
    return draft.plus(env=(secret,))


def signing_key(draft: PodDraft, request: StageRequest) -> PodDraft:
    """Add the key that signs the adapter: prepare checks it, train signs with it."""
    signing = request.resolved.run_file.output.signing
    if signing is None:
        return draft
    reference = signing.key_secret_ref
    return draft.plus(env=(_secret_env(SIGNING_KEY_VARIABLE, secret=reference.name, key=reference.key),))


def _secret_env(name: str, *, secret: str, key: str, optional: bool = False) -> Entry:
    reference = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


TRANSFORMS: tuple[Transform, ...] = (
    trainer_command,
    rendezvous,
    compute,
    grace,
    run_file,
    writable_folders,
    shared_memory,
    claims,
    model_cache,
    config_maps,
    storage_access,
    hub_mirror,
    hub_token,
    signing_key,
    scheduling,
    overlay,
)


CLEANUP_TRANSFORMS: tuple[Transform, ...] = (
    cleanup_command,
    compute,
    writable_folders,
    storage_access,
    scheduling,
    overlay,
)


def pod_template(request: StageRequest) -> Entry:
    """The pod template of one attempt."""
    draft = PodDraft()
    for transform in CLEANUP_TRANSFORMS if request.stage is Stage.CLEANUP else TRANSFORMS:
        draft = transform(draft, request)
    own = child_labels(request.run) | {STAGE_LABEL: request.stage.value, ATTEMPT_LABEL: str(request.attempt)}
    metadata = {"labels": {**draft.labels, **own}} | (
        {"annotations": {**draft.annotations}} if draft.annotations else {}
    )
    return {"metadata": metadata, "spec": _pod_spec(draft, request)}


def _pod_spec(draft: PodDraft, request: StageRequest) -> Entry:
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": draft.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Change the owner of a large volume's files once, not at every start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(draft, request)],
        "volumes": list(draft.volumes),
        **draft.placement,
    }
    if draft.service_account is not None:
        spec["serviceAccountName"] = draft.service_account
    if draft.subdomain is not None:
        spec["subdomain"] = draft.subdomain
    return spec


def _container(draft: PodDraft, request: StageRequest) -> Entry:
    return {
        "name": CONTAINER,
        "image": _image(request),
        "imagePullPolicy": request.resolved.class_spec.image_pull_policy,
        "args": list(draft.args),
        "workingDir": str(SCRATCH),
        "env": list(draft.env),
        "ports": list(draft.ports),
        "livenessProbe": _liveness(request),
        "resources": {"requests": dict(draft.requests), "limits": dict(draft.limits)},
        "volumeMounts": list(draft.mounts),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _liveness(request: StageRequest) -> Entry:
    """The probe that ends a trainer in which no thread runs any more, which nothing else detects.

    There is no startup probe: the trainer answers before it imports large libraries.
    """
    patience = request.resolved.class_spec.liveness_timeout_seconds
    return {
        "httpGet": {"path": HEALTH_PATH, "port": PORT_NAME},
        "periodSeconds": PROBE_SECONDS,
        "timeoutSeconds": PROBE_SECONDS,
        "failureThreshold": ceil(patience / PROBE_SECONDS),
    }


def _image(request: StageRequest) -> str:
    spec = request.resolved.class_spec
    return (spec.prepare.image if request.stage is not Stage.TRAIN else None) or spec.image
