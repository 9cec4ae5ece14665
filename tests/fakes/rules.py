"""What the real server fills in and refuses, for every object and for the built-in kinds an operator touches. Pure.

Only the rules that can bite an operator are here; full validation of pods and Jobs is left to a real cluster.
"""

from __future__ import annotations

import re

from .copying import copied
from .errors import ApiError, invalid
from .resources import Obj, Resource

JOB_TRACKING_FINALIZER = "batch.kubernetes.io/job-tracking"

_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_SERVICE = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_ANNOTATIONS_LIMIT = 256 * 1024


def check_metadata(obj: Obj, resource: Resource) -> None:
    """Names, labels and the size of annotations. Raises ApiError 422."""
    metadata = obj["metadata"]
    causes: list[tuple[str, str]] = []
    if len(metadata["name"]) > 253 or not _SUBDOMAIN.match(metadata["name"]):
        causes.append(("metadata.name", f'Invalid value: "{metadata["name"]}": must be a lowercase RFC 1123 subdomain'))
    causes += _label_causes(metadata.get("labels") or {}, "metadata.labels")
    annotations = metadata.get("annotations") or {}
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        causes.append(("metadata.annotations", "Too long: may not be more than 262144 bytes"))
    if resource.kind == "Service" and not _SERVICE.match(metadata["name"]):
        causes.append(("metadata.name", f'Invalid value: "{metadata["name"]}": must be a DNS-1035 label'))
    if resource.kind == "Job":
        template = obj["spec"].get("template", {}).get("metadata", {})
        causes += _label_causes(template.get("labels") or {}, "spec.template.labels")
    if resource.key == "events" and obj.get("involvedObject", {}).get("namespace", "default") != metadata["namespace"]:
        causes.append(("involvedObject.namespace", "Invalid value: does not match event.namespace"))
    if causes:
        raise invalid(resource.group, resource.kind, metadata["name"], causes)


def _label_causes(labels: dict[str, str], field: str) -> list[tuple[str, str]]:
    causes: list[tuple[str, str]] = []
    for key, value in labels.items():
        if not _LABEL_KEY.match(key):
            causes.append((field, f'Invalid value: "{key}": not a qualified name of at most 63 characters'))
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            message = f'Invalid value: "{value}": must be at most 63 characters, alphanumeric at both ends'
            causes.append((field, message))
    return causes


def on_create(obj: Obj, resource: Resource) -> Obj:
    """A copy with what the server sets on creation of a built-in kind."""
    match resource.kind:
        case "Job":
            return _default_job(obj)
        case "Pod":
            return obj | {"status": {"phase": "Pending", "qosClass": "BestEffort"}}
        case "Namespace":
            return obj | {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
    return obj


def _default_job(obj: Obj) -> Obj:
    spec = copied(obj.get("spec", {}))
    if "template" not in spec:
        raise invalid("batch", "Job", obj["metadata"]["name"], [("spec.template", "Required value")])
    if spec.get("podFailurePolicy") and spec["template"]["spec"].get("restartPolicy") != "Never":
        cause = ("spec.template.spec.restartPolicy", 'Unsupported value: supported values: "Never"')
        raise invalid("batch", "Job", obj["metadata"]["name"], [cause])
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    uid = obj["metadata"]["uid"]
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = uid
        labels[f"{prefix}job-name"] = obj["metadata"]["name"]
    return obj | {"spec": spec}


def check_update(old: Obj, new: Obj, resource: Resource) -> None:
    """What may not change. Raises ApiError 422."""
    causes: list[tuple[str, str]] = []
    if resource.kind == "Job":
        fixed = ["selector", "completionMode", "podFailurePolicy"] + ([] if _may_edit_template(old) else ["template"])
        causes = [
            (f"spec.{field}", "Invalid value: field is immutable")
            for field in fixed
            if old["spec"].get(field) != new["spec"].get(field)
        ]
    if resource.kind == "ConfigMap" and old.get("immutable"):
        causes = [
            (field, "Forbidden: field is immutable when `immutable` is set")
            for field in ("data", "binaryData", "immutable")
            if old.get(field) != new.get(field)
        ]
    if old["metadata"].get("deletionTimestamp"):
        added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added:
            message = f"Forbidden: no new finalizers can be added if the object is being deleted: {sorted(added)}"
            causes.append(("metadata.finalizers", message))
    if causes:
        raise invalid(resource.group, resource.kind, old["metadata"]["name"], causes)


def _may_edit_template(job: Obj) -> bool:
    """Kueue's door: scheduling directives of a suspended Job that has not started may change."""
    return bool(job["spec"].get("suspend")) and not job.get("status", {}).get("startTime")


def check_unconditional_update(resource: Resource, name: str) -> None:
    """A PUT without resourceVersion: refused for what must be updated with optimistic locking."""
    if resource.custom or resource.kind == "Lease":
        cause = ("metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update")
        raise invalid(resource.group, resource.kind, name, [cause])


def grace_period(obj: Obj, resource: Resource, requested: int | None) -> int:
    """Seconds a deleted object stays for its kubelet: 0 for all but a pod that is bound to a node and not finished."""
    if resource.kind != "Pod" or not obj.get("spec", {}).get("nodeName"):
        return 0
    if obj.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    return requested if requested is not None else obj["spec"].get("terminationGracePeriodSeconds", 30)


def default_propagation(resource: Resource) -> str:
    """Jobs orphan their pods unless told otherwise: a trap of batch/v1 that the fake keeps."""
    return "Orphan" if resource.kind == "Job" else "Background"


def check_namespace(namespace: Obj | None, resource: Resource, obj: Obj) -> None:
    """Nothing is created in a namespace that is absent (404) or terminating (403)."""
    name = obj["metadata"]["namespace"]
    if namespace is None:
        raise ApiError(404, f'namespaces "{name}" not found', details={"name": name, "kind": "namespaces"})
    if namespace["metadata"].get("deletionTimestamp"):
        message = (
            f'{resource.key} "{obj["metadata"]["name"]}" is forbidden: '
            f"unable to create new content in namespace {name} because it is being terminated"
        )
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated"}
        raise ApiError(403, message, details={"causes": [cause]})
