"""Resolves a run's base model: pinned revision, config.json, tokenizer files, parameters; fetches weights on demand.

A model comes from a folder in a bucket (s3://), a folder on a volume (pvc://) or a model hub. Loads nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import NotASafetensorsRepoError

from lora_trainer.base_model.cache import cached_folder, keep
from lora_trainer.base_model.checks import architecture_of, check_config, check_shards, unsupported
from lora_trainer.base_model.weights import Shapes, parameters, read_shapes
from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.outcome import ModelFigures
from lora_trainer.contract.run import MODEL_CACHE, RunFile, canonical_json
from lora_trainer.contract.spec.model import ModelSpec
from lora_trainer.contract.spec.places import CLAIM
from lora_trainer.data.tokens import TOKENIZER_FILES
from lora_trainer.errors import TrainerError
from lora_trainer.hub_errors import HUB_ERRORS, HubRepository, hub_error
from lora_trainer.storage import Bucket, StoredFile, file_sha256, in_parallel

CONFIG = "config.json"
WEIGHTS = ".safetensors"
MODEL_FILES = (WEIGHTS, ".json", ".jinja", ".txt", ".model")
"""Endings of the files that loading may need: weights, settings, tokenizer. Never code, never pickles."""
INDEX = "model.safetensors.index.json"
SMALL_FILES = (CONFIG, INDEX, *TOKENIZER_FILES)


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model as it was resolved."""

    folder: Path
    """Local folder with SMALL_FILES, as far as the model has them."""
    config: Mapping[str, Any]
    """config.json."""
    shapes: Shapes
    """Shapes of its tensors."""
    figures: ModelFigures


def resolve_model(spec: ModelSpec, *, bucket: Bucket, folder: Path) -> BaseModel:
    """Pin the revision and fetch the small files into `folder`.

    Raises TrainerError: ModelNotFound, ModelAccessDenied, ModelUnsupported, HubUnavailable, or of the storage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not spec.on_hub:
        revision, shapes = _resolve_folder(spec.address, bucket=bucket, folder=folder)
    else:
        revision, shapes = _resolve_hub(spec, folder=folder)
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except json.JSONDecodeError as error:
        raise unsupported(
            spec.address, f"its config.json is not JSON (line {error.lineno})", "Upload it again"
        ) from None
    check_config(spec.address, config)
    figures = ModelFigures(revision=revision, parameters=parameters(shapes), architecture=architecture_of(config))
    return BaseModel(folder=folder, config=config, shapes=shapes, figures=figures)


def fetch_model(spec: ModelSpec, *, revision: str, bucket: Bucket, folder: Path) -> Path:
    """A local folder with the whole model at the revision that prepare pinned; a volume is used where it is mounted.

    Raises TrainerError: ConfigInvalid for a folder that has changed since, HubUnavailable, or of the storage.
    """
    if not spec.on_hub:
        if _folder_revision(spec.address, bucket=bucket, folder=folder) != revision:
            raise TrainerError(
                ExitCode.ConfigInvalid,
                f"The model at {spec.address} has changed since the run was prepared.",
                "Restore the model, or apply the LoraFineTune under a new name.",
            )
        return bucket.download_folder(spec.address, folder, wanted=lambda name: name.endswith(MODEL_FILES))
    try:
        snapshot_download(
            spec.address,
            revision=revision,
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT") or None,
            allow_patterns=[f"*{ending}" for ending in MODEL_FILES],
        )
    except HUB_ERRORS as error:
        raise _hub_error(error, spec) from None
    return folder


def keep_model(run: RunFile, *, revision: str, bucket: Bucket, cache: Path) -> None:
    """Have the model in the class's cache, where it has one. A model on a volume is used where it is.

    Raises TrainerError: DiskFull, or what fetch_model raises.
    """
    if not run.model_cache or run.model.on_claim:
        return
    folder = cached_folder(cache, name=run.model.address, revision=revision)
    fetch = partial(fetch_model, run.model, revision=revision, bucket=bucket)
    keep(folder, owner=run.identity.uid, fetch=lambda partly: fetch(folder=partly))


def base_folder(run: RunFile, *, revision: str, bucket: Bucket, scratch: Path, cache: Path = MODEL_CACHE) -> Path:
    """A local folder with the whole model as prepare pinned it: the cached one, or one in `scratch`.

    Raises TrainerError as fetch_model does.
    """
    folder = cached_folder(cache, name=run.model.address, revision=revision)
    if run.model_cache and folder.is_dir():
        return folder
    return fetch_model(run.model, revision=revision, bucket=bucket, folder=scratch)


def _folder_revision(uri: str, *, bucket: Bucket, folder: Path) -> str:
    files = [file for file in bucket.list(uri) if file.path.endswith(MODEL_FILES)]
    on_volume = uri.startswith(CLAIM)
    contents = (lambda file: file_sha256(bucket.download_folder(uri, folder) / file.path)) if on_volume else _etag
    return folder_digest(files, contents)


def _resolve_folder(uri: str, *, bucket: Bucket, folder: Path) -> tuple[str, Shapes]:
    files = [file for file in bucket.list(uri) if file.path.endswith(MODEL_FILES)]
    names = [file.path for file in files]
    _check_files(uri, names, found=bool(files) or bool(bucket.list(uri)))
    for name in set(names) & set(SMALL_FILES):
        bucket.download(f"{uri.rstrip('/')}/{name}", folder / name)
    _check_index(uri, folder, names)
    revision = _folder_revision(uri, bucket=bucket, folder=folder)
    weights = [file for file in files if file.path.endswith(WEIGHTS) and "/" not in file.path]

    def shapes(file: StoredFile) -> Shapes:
        return read_shapes(_reader(bucket, f"{uri.rstrip('/')}/{file.path}"), name=file.path, size=file.size)

    return revision, {name: shape for found in in_parallel(shapes, weights) for name, shape in found.items()}


def _etag(file: StoredFile) -> str:
    return file.etag or ""


def folder_digest(files: list[StoredFile], contents: Callable[[StoredFile], str]) -> str:
    """Revision of a model in a folder: sha256 over path, size and version mark of its files.

    `contents` is the store's etag for a bucket, and the sha256 of the file for a volume: a volume's own marks are
    times, which change when the same files are copied again.
    """
    marks = in_parallel(contents, files)
    entries = [[file.path, file.size, mark] for file, mark in zip(files, marks, strict=True)]
    return hashlib.sha256(canonical_json(entries)).hexdigest()


def _reader(bucket: Bucket, uri: str) -> Callable[[int, int], bytes]:
    return lambda start, end: bucket.read(uri, start=start, end=end)


def _check_files(name: str, files: list[str], *, found: bool) -> None:
    if not found:
        raise TrainerError(
            ExitCode.ModelNotFound, f"There is no model at {name}.", "Upload the model folder, or correct model.name."
        )
    if CONFIG not in files:
        raise unsupported(name, "it has no config.json", "Upload the whole folder that save_pretrained wrote")
    if not any(file.endswith(WEIGHTS) for file in files):
        raise unsupported(name, "it has no .safetensors weights", "Save it with save_pretrained, which writes them")


def _check_index(name: str, folder: Path, files: list[str]) -> None:
    if (folder / INDEX).exists():
        check_shards(name, json.loads((folder / INDEX).read_bytes()), files)


def _resolve_hub(spec: ModelSpec, *, folder: Path) -> tuple[str, Shapes]:
    """Endpoint and token come from HF_ENDPOINT and HF_TOKEN."""
    try:
        endpoint = os.environ.get("HF_ENDPOINT") or None
        api = HfApi(endpoint=endpoint)
        info = api.model_info(spec.address, revision=spec.revision)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        _check_files(spec.address, files, found=True)
        assert info.sha, "the hub names a commit for every revision"
        for name in set(files) & set(SMALL_FILES):
            hf_hub_download(spec.address, name, revision=info.sha, local_dir=folder, endpoint=endpoint)
        _check_index(spec.address, folder, files)
        found = api.get_safetensors_metadata(spec.address, revision=info.sha).files_metadata.values()
        tensors = {name: tensor for metadata in found for name, tensor in metadata.tensors.items()}
        return info.sha, {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except NotASafetensorsRepoError:
        raise unsupported(spec.address, "it has no model.safetensors", "Choose a model that has one") from None
    except HUB_ERRORS as error:
        raise _hub_error(error, spec) from None


def _hub_error(error: Exception, spec: ModelSpec) -> TrainerError:
    asked = HubRepository(
        kind="model",
        name=spec.address,
        revision=spec.revision,
        field="model.name",
        denied=ExitCode.ModelAccessDenied,
        missing=ExitCode.ModelNotFound,
        mirrored="s3://bucket/folder",
    )
    return hub_error(error, asked)
