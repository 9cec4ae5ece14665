"""The table of resources that the fake serves, and the paths under which it serves them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Obj = dict[str, Any]

OPERATOR_GROUP = "lora-operator.io"


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One served resource. `schema` is the structural schema of a CRD, None for what has none."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = False
    parts: tuple[str, ...] = ()
    """Subresources that are read as the field of that name of the object."""
    has_generation: bool = False
    short_names: tuple[str, ...] = ()
    schema: Obj | None = None
    custom: bool = False

    @property
    def key(self) -> str:
        """`jobs.batch`, or `pods` for the core group: the resource's name everywhere in the fake."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a request path points at; `resource` is the plural when the table does not know it."""

    group: str
    version: str
    plural: str
    namespace: str | None = None
    name: str | None = None
    subresource: str = ""


_EVENT_SCHEMA: Obj = {
    # What the real server insists on for events.k8s.io/v1, and refuses with 422 otherwise.
    "type": "object",
    "required": ["eventTime", "reportingController", "reportingInstance", "action", "reason", "type"],
    "x-kubernetes-preserve-unknown-fields": True,
    "properties": {
        "reportingController": {"type": "string", "minLength": 1},
        "reportingInstance": {"type": "string", "minLength": 1, "maxLength": 128},
        "action": {"type": "string", "minLength": 1, "maxLength": 128},
        "reason": {"type": "string", "minLength": 1, "maxLength": 128},
        "note": {"type": "string", "maxLength": 1024},
        "type": {"type": "string", "enum": ["Normal", "Warning"]},
    },
}

_BUILTINS = (
    Resource(group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False, has_status=True),
    Resource(group="", version="v1", plural="pods", kind="Pod", has_status=True, short_names=("po",)),
    Resource(group="", version="v1", plural="configmaps", kind="ConfigMap", short_names=("cm",)),
    Resource(group="", version="v1", plural="services", kind="Service", short_names=("svc",)),
    Resource(group="", version="v1", plural="events", kind="Event", short_names=("ev",)),
    Resource(group="events.k8s.io", version="v1", plural="events", kind="Event", schema=_EVENT_SCHEMA),
    Resource(group="batch", version="v1", plural="jobs", kind="Job", has_status=True, has_generation=True),
    Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease"),
    Resource(
        group="apiextensions.k8s.io",
        version="v1",
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        namespaced=False,
        has_status=True,
        has_generation=True,
        short_names=("crd", "crds"),
    ),
)

_SCHEMALESS_CUSTOM = (
    Resource(
        group=OPERATOR_GROUP,
        version="v1beta1",
        plural="lorafinetunes",
        kind="LoraFineTune",
        has_status=True,
        has_generation=True,
        short_names=("lft",),
        custom=True,
    ),
    Resource(
        group=OPERATOR_GROUP,
        version="v1beta1",
        plural="lorafinetuneclasses",
        kind="LoraFineTuneClass",
        namespaced=False,
        has_generation=True,
        short_names=("lftc",),
        custom=True,
    ),
)


class ResourceTable:
    """Served resources by key. CRDs given as documents replace the schemaless defaults of the same name."""

    def __init__(self, crds: Iterable[Obj] = ()) -> None:
        served = [*_BUILTINS, *_SCHEMALESS_CUSTOM, *(from_crd(crd) for crd in crds)]
        self._by_key = {resource.key: resource for resource in served}

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_key.values())

    def find(self, name: str) -> Resource:
        """By key (`jobs.batch`) or by plural (`jobs`; the core group wins where two groups share one)."""
        if name in self._by_key:
            return self._by_key[name]
        for resource in self:
            if resource.plural == name:
                return resource
        raise LookupError(f"the fake API server does not serve {name!r}; it serves {sorted(self._by_key)}")

    def of_object(self, obj: Obj) -> Resource:
        """The resource of an object, by its apiVersion and kind."""
        for resource in self:
            if (resource.api_version, resource.kind) == (obj.get("apiVersion"), obj.get("kind")):
                return resource
        raise LookupError(f"the fake API server serves no {obj.get('apiVersion')} {obj.get('kind')}")

    def at(self, target: Target) -> Resource | None:
        key = f"{target.plural}.{target.group}" if target.group else target.plural
        resource = self._by_key.get(key)
        return resource if resource is not None and resource.version == target.version else None


def from_crd(crd: Obj) -> Resource:
    """The resource that a CustomResourceDefinition's storage version declares."""
    spec, names = crd["spec"], crd["spec"]["names"]
    version = next(version for version in spec["versions"] if version["storage"])
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=names["kind"],
        namespaced=spec["scope"] == "Namespaced",
        has_status="status" in version.get("subresources", {}),
        parts=tuple(sorted(version.get("subresources", {}).keys() - {"status", "scale"})),
        has_generation=True,
        short_names=tuple(names.get("shortNames", ())),
        schema=version.get("schema", {}).get("openAPIV3Schema"),
        custom=True,
    )


def load_crds(sources: Iterable[Path | Obj]) -> list[Obj]:
    """CRD documents from YAML files (other kinds in a file are passed over) or given as they are."""
    documents: list[Obj] = []
    for source in sources:
        loaded = [source] if isinstance(source, dict) else _documents(source.read_text(encoding="utf-8"))
        documents += [document for document in loaded if document and document["kind"] == "CustomResourceDefinition"]
    return copy.deepcopy(documents)


@functools.cache
def _documents(text: str) -> list[Obj]:
    """Parsed once a process: reading the CRDs took most of the time in which a fake API server starts."""
    return list(yaml.safe_load_all(text))


def parse_path(path: str) -> Target | None:
    """`/apis/batch/v1/namespaces/a/jobs/b/status` -> Target; None for what is not a resource path."""
    match path.strip("/").split("/"):
        case ["api", "v1", *rest] if rest:
            group, version = "", "v1"
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return None
    match rest:
        case ["namespaces", namespace, plural, *tail] if plural not in ("status", "finalize"):
            pass
        case [plural, *tail]:
            namespace = None
        case _:
            return None
    name, subresource = (*tail, None, None)[:2]
    return Target(
        group=group, version=version, plural=plural, namespace=namespace, name=name, subresource=subresource or ""
    )


def object_key(obj: Obj) -> tuple[str, str]:
    """Namespace ("" when cluster-scoped) and name."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
