"""Where rows and models are: an address, or an object of the namespace by its name.

References to objects have fields of their own. Kustomize adds prefixes and hashes to the names of ConfigMaps and
claims, and rewrites a reference only where the name is the whole value.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.names import KeyName, ObjectName
from lora_trainer.contract.spec.uris import CLAIM_PATH, DATA_URI, stays_in_its_folder
from lora_trainer.contract.wire import WireModel

CONFIG_MAP, CLAIM = "configmap://", "pvc://"
"""Schemes of the addresses that references have in a class's `allowed` and in reports."""


class ConfigMapKeyRef(WireModel):
    """One key of a ConfigMap in the namespace of the run."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: KeyName
    """Key inside the ConfigMap."""

    @property
    def address(self) -> str:
        """The key as one text."""
        return f"{CONFIG_MAP}{self.name}/{self.key}"


class ClaimRef(WireModel):
    """Files on a PersistentVolumeClaim in the namespace of the run, which is mounted read-only."""

    model_config = ConfigDict(json_schema_extra=rules(stays_in_its_folder("path")))

    name: ObjectName
    """Name of the PersistentVolumeClaim."""
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=CLAIM_PATH)]
    """Path below the root of the volume."""

    @property
    def address(self) -> str:
        """The files as one text."""
        return f"{CLAIM}{self.name}/{self.path}"


SPLIT_OF_THE_HUB = rule(
    "!has(self.split) || (has(self.uri) && self.uri.startsWith('hf://'))",
    "split is one of a dataset on the Hugging Face Hub: set uri to hf://datasets/owner/name.",
    field="split",
)


class DataPlace(WireModel):
    """Where rows are. Exactly one of uri, configMapRef and claimRef."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.uri), has(self.configMapRef), has(self.claimRef)].filter(given, given).size() == 1",
                "Set exactly one of uri, configMapRef and claimRef.",
            ),
            SPLIT_OF_THE_HUB,
            stays_in_its_folder("uri"),
        )
    )

    uri: Annotated[str, Field(min_length=1, max_length=1024, pattern=DATA_URI)] | None = None
    """A file, a folder, or files by a pattern (train-*.parquet) of .jsonl, .json, .csv (.gz, .bz2, .xz, .zst, .lz4 and
    .zip too), .parquet or .arrow: s3://bucket/path, gs://bucket/path or az://container/path; or
    hf://datasets/owner/name@revision/path for a dataset on the Hugging Face Hub, read with the token of
    huggingFace.tokenSecretRef, whose revision (unset: main) is pinned for the run and reported."""
    split: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_]+$")] | None = None
    """Split of a dataset on the Hugging Face Hub, by the names of its files: of a folder those with train, validation,
    test or a name of the dataset's own (train_sft) in their path. Unset: train; with a pattern in the uri, all files
    that it fits."""
    config_map_ref: ConfigMapKeyRef | None = None
    """A file in a ConfigMap. The ending of the key tells its type, as that of a file does."""
    claim_ref: ClaimRef | None = None
    """A file, a folder, or files by a pattern on a PersistentVolumeClaim."""

    @property
    def address(self) -> str:
        """The place as one text. Empty where none is set."""
        reference = self.config_map_ref or self.claim_ref
        return reference.address if reference else self.uri or ""
