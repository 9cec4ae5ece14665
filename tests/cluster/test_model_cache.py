"""The model cache on the real cluster: train takes the model from the volume that prepare filled, and asks nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import (
    FIRST_LAYERS_PREFIX,
    REAL_TRAINING,
    TRAINING_CLASS,
    TRAINING_PATIENCE,
    Body,
    Tenant,
    make_class,
    ready_reason,
    small_training,
)
from tests.cluster.settings import Paths
from tests.demo import object_store
from tests.demo.environment import Environment
from tests.demo.live import is_true

CLAIM = "models"


def volume(name: str, folder: Path) -> Body:
    """A folder of the one node as a volume, made for one claim."""
    node = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}
    spec = {
        "accessModes": ["ReadWriteMany"],
        "capacity": {"storage": "1Gi"},
        "claimRef": {"namespace": name, "name": CLAIM},
        "local": {"path": str(folder)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [node]}},
        "storageClassName": "",
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def claim(namespace: str, *, local: bool) -> Body:
    """A claim on that volume; in somebody else's cluster on one of its default StorageClass."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    spec |= {"storageClassName": ""} if local else {}
    metadata = {"name": CLAIM, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


@pytest.fixture
def cached(environment: Environment, tenant: Tenant) -> Iterator[Tenant]:
    """A tenant with a claim for models and a class that uses it, named as the namespace is."""
    name, kubectl = tenant.namespace, environment.kubectl
    folder = Paths.from_environment().state / f"volume-{name}"
    if environment.own_cluster:
        folder.mkdir()
        kubectl.apply(volume(name, folder))
    kubectl.apply(claim(name, local=environment.own_cluster))
    make_class(environment.kubectl, name, like=TRAINING_CLASS, modelCache={"claimName": CLAIM})
    yield tenant
    kubectl("delete", "lorafinetuneclass", name)
    tenant.delete()
    if environment.own_cluster:
        kubectl("delete", "persistentvolume", name, "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


@REAL_TRAINING
def test_a_model_that_is_gone_from_its_bucket_after_prepare_is_trained_all_the_same(
    environment: Environment, cached: Tenant
) -> None:
    copied = f"{cached.namespace}/model"
    with object_store.bucket(environment.kubectl, environment.account) as store:
        for page in store.list(f"{FIRST_LAYERS_PREFIX}/"):
            for entry in page:
                store.copy(entry["path"], f"{copied}/{entry['path'].rpartition('/')[2]}")
    spec = small_training(maxSteps=1)
    model = spec["model"] | {"name": f"s3://lora/{copied}"}
    cached.apply("run", **spec | {"className": cached.namespace, "model": model})
    cached.wait("run", lambda run: is_true(run, "Prepared"), "Prepared", seconds=TRAINING_PATIENCE)
    with object_store.bucket(environment.kubectl, environment.account) as store:
        object_store.delete_folder(store, copied)
    run = cached.wait_for_training("run")
    assert ready_reason(run) == "AdapterPublished"
