"""Discovery documents: which groups, versions and resources the fake serves. Pure."""

from __future__ import annotations

from .resources import Obj, Resource, ResourceTable

VERSION: Obj = {"major": "1", "minor": "34", "gitVersion": "v1.34.4-fake", "platform": "linux/amd64"}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(path: str, resources: ResourceTable) -> Obj | None:
    """The document at `path`; None when there is none."""
    match path.strip("/").split("/"):
        case ["version"]:
            return VERSION
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups = sorted({resource.group for resource in resources if resource.group})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, resources) for name in groups]}
        case ["api", "v1"]:
            return _resource_list("", "v1", resources)
        case ["apis", group]:
            return _group(group, resources) if any(r.group == group for r in resources) else None
        case ["apis", group, version]:
            return _resource_list(group, version, resources)
    return None


def _group(name: str, resources: ResourceTable) -> Obj:
    versions = sorted({resource.version for resource in resources if resource.group == name})
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": entries, "preferredVersion": entries[0]}


def _resource_list(group: str, version: str, resources: ResourceTable) -> Obj | None:
    served = [resource for resource in resources if (resource.group, resource.version) == (group, version)]
    if not served:
        return None
    entries: list[Obj] = []
    for resource in served:
        entries.append(_entry(resource))
        if resource.has_status:
            status = {"name": f"{resource.plural}/status", "verbs": ["get", "patch", "update"]}
            entries.append(_entry(resource) | status)
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": entries,
    }


def _entry(resource: Resource) -> Obj:
    return {
        "name": resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _VERBS,
        "shortNames": list(resource.short_names),
    }
