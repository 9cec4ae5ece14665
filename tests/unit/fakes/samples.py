"""Objects, paths and a one-line HTTP call for the tests of the fake."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

LFT = "/apis/lora-operator.io/v1beta1/namespaces/default/lorafinetunes"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"

CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "lorafinetunes.lora-operator.io"},
    "spec": {
        "group": "lora-operator.io",
        "scope": "Namespaced",
        "names": {"plural": "lorafinetunes", "kind": "LoraFineTune", "shortNames": ["lft"]},
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "apiVersion": {"type": "string"},
                            "kind": {"type": "string"},
                            "metadata": {"type": "object"},
                            "spec": {
                                "type": "object",
                                "required": ["model"],
                                "properties": {
                                    "model": {"type": "string", "minLength": 1},
                                    "suspend": {"type": "boolean", "default": False},
                                    "lora": {
                                        "type": "object",
                                        "default": {},
                                        "properties": {
                                            "r": {"type": "integer", "minimum": 1, "default": 16},
                                            "note": {"type": "string", "nullable": True},
                                        },
                                    },
                                },
                            },
                            "status": {
                                "type": "object",
                                "properties": {
                                    "step": {"type": "integer"},
                                    "loss": {"type": "number"},
                                    "history": {"type": "array", "items": {"type": "integer"}},
                                    "conditions": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["type"],
                                        "items": {
                                            "type": "object",
                                            "required": ["type", "status"],
                                            "properties": {
                                                "type": {"type": "string"},
                                                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                                                "reason": {"type": "string"},
                                            },
                                        },
                                    },
                                },
                            },
                        },
                    }
                },
            }
        ],
    },
}


def fine_tune(name: str = "run", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "lora-operator.io/v1beta1",
        "kind": "LoraFineTune",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": "m"} | spec,
    }


def configmap(name: str, *, owner: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default"} | metadata
    if owner is not None:
        meta["ownerReferences"] = [owner_reference(owner)]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "1"}}


def owner_reference(owner: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def job(name: str = "train", **spec: Any) -> dict[str, Any]:
    container = {"name": "trainer", "image": "trainer:1"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"backoffLimit": 0, "template": template} | spec,
    }


async def call(
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: Any = None,
    *,
    kind: str = "application/json",
    **query: str,
) -> tuple[int, Any]:
    """Status and body of one request; `kind` is the content type."""
    data = json.dumps(body) if body is not None else None
    async with http.request(method, path, data=data, params=query, headers={"Content-Type": kind}) as response:
        return response.status, await response.json()


async def events(
    http: aiohttp.ClientSession, path: str, *, count: int | None = None, **query: str
) -> list[tuple[str, dict[str, Any]]]:
    """Watch events as (type, object): the first `count`, or all until the server ends the stream."""
    seen: list[tuple[str, dict[str, Any]]] = []
    async with http.get(path, params={"watch": "true"} | query) as response:
        async for line in response.content:
            event = json.loads(line)
            seen.append((event["type"], event["object"]))
            if len(seen) == count:
                break
    return seen
