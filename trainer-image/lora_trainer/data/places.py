"""Which data files a URI means: in a bucket, on a mount or on the Hugging Face Hub. Reads none of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import HfApi, hf_hub_download

from lora_trainer.contract.exits import ExitCode
from lora_trainer.data.hub_splits import DEFAULT
from lora_trainer.errors import TrainerError
from lora_trainer.hub_errors import HUB_ERRORS, HubRepository, hub_error
from lora_trainer.storage import Bucket

HUB_URI = re.compile(r"hf://datasets/(?P<name>[^/]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.*))?")


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file that a URI means."""

    name: str
    """Path for messages: below the folder that was named."""
    fetch: Callable[[Path], None]
    """Writes the file to a local path."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a URI means."""

    files: Sequence[DataFile]
    single: bool
    """Whether the URI names a single file; else the files are those of a folder or pattern."""
    revision: str | None = None
    """Commit of the hub that the files are of."""
    split: str | None = None
    """Split of which the files are to be read; None for all of them."""


def find(uri: str, bucket: Bucket, *, split: str | None = None) -> Place:
    """The files that `uri` means, sorted by name: a file, all files below a folder, or those that fit a pattern.

    Raises DatasetNotFound where there is none, DatasetAccessDenied or HubUnavailable, or of the storage.
    """
    place = _on_hub(uri, split) if uri.startswith("hf://") else _in_bucket(uri, bucket)
    if not place.files:
        raise TrainerError(
            ExitCode.DatasetNotFound,
            f"There is no dataset at {uri}: neither a file nor a folder with files.",
            "Upload it, or correct dataset (evaluation.dataset).",
        )
    return place


def _in_bucket(uri: str, bucket: Bucket) -> Place:
    folder, pattern = _folder_and_pattern(uri.rstrip("/"))
    if pattern is None and bucket.exists(uri):
        return Place(files=[DataFile(name=_last(uri), fetch=_from_bucket(bucket, uri))], single=True)
    names = _matching([file.path for file in bucket.list(folder)], pattern)
    files = [DataFile(name=name, fetch=_from_bucket(bucket, f"{folder}/{name}")) for name in names]
    return Place(files=files, single=False)


def _from_bucket(bucket: Bucket, uri: str) -> Callable[[Path], None]:
    return lambda path: bucket.download(uri, path)


def _on_hub(uri: str, split: str | None) -> Place:
    """Endpoint and token come from HF_ENDPOINT and HF_TOKEN."""
    named = HUB_URI.fullmatch(uri)
    assert named, "the schema lets no other hf:// URI through"
    repository, path = named["name"], (named["path"] or "").strip("/")
    revision = unquote(named["revision"]) if named["revision"] else None
    asked = HubRepository(
        kind="dataset",
        name=repository,
        revision=revision,
        field="dataset.uri",
        denied=ExitCode.DatasetAccessDenied,
        missing=ExitCode.DatasetNotFound,
        mirrored="s3://bucket/path",
    )
    try:
        info = HfApi(endpoint=_endpoint()).dataset_info(repository, revision=revision)
    except HUB_ERRORS as error:
        raise hub_error(error, asked) from None
    commit = info.sha
    assert commit, "the hub names a commit for every revision"
    present = sorted(sibling.rfilename for sibling in info.siblings or ())

    def file(name: str, path: str) -> DataFile:
        return DataFile(name=name, fetch=_from_hub(repository, path, commit=commit, asked=asked))

    if path in present:
        return Place(files=[file(_last(path), path)], single=True, revision=commit)
    folder, pattern = _folder_and_pattern(path)
    prefix = f"{folder}/" if folder else ""
    below = [name.removeprefix(prefix) for name in present if name.startswith(prefix)]
    names = _matching(below, pattern)
    return Place(
        files=[file(name, prefix + name) for name in names],
        single=False,
        revision=commit,
        # A pattern names the files by itself.
        split=split or (None if pattern else DEFAULT),
    )


def _from_hub(repository: str, name: str, *, commit: str, asked: HubRepository) -> Callable[[Path], None]:
    def fetch(path: Path) -> None:
        folder = path.with_name(f"{path.name}.hub")
        try:
            downloaded = hf_hub_download(
                repository, name, repo_type="dataset", revision=commit, local_dir=folder, endpoint=_endpoint()
            )
            Path(downloaded).replace(path)
        except HUB_ERRORS as error:
            raise hub_error(error, asked) from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return fetch


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _folder_and_pattern(path: str) -> tuple[str, str | None]:
    """A path whose end has wildcards as the folder in front of them and the pattern; other paths are folders."""
    if "*" not in path:
        return path, None
    folder = path.partition("*")[0].rpartition("/")[0]
    return folder, path[len(folder) :].lstrip("/")


def _matching(names: Sequence[str], pattern: str | None) -> list[str]:
    """The names that a pattern fits; its * does not cross a /."""
    if pattern is None:
        return list(names)
    depth = pattern.count("/")
    return [name for name in names if name.count("/") == depth and fnmatchcase(name, pattern)]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
