"""Keeps base models on a volume: prepare fills it and train reads it, so that no accelerator waits for a download.

A model's folder is named by its revision, which identifies its contents, and appears complete, by a rename. If two pods
fetch the same model at once, the copy of the first one stays.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError, is_disk_full

PARTIAL = ".partial-"
LONGEST_LABEL = 64

log = logging.getLogger(__name__)


def cached_folder(root: Path, *, name: str, revision: str) -> Path:
    """Where the model `name` is kept at this revision, whether it is there or not."""
    label = re.sub(r"[^\w.-]", "-", f"{name.rstrip('/').rpartition('/')[2][:LONGEST_LABEL]}-{revision}")
    return root / label.lstrip(".")


def keep(folder: Path, *, owner: str, fetch: Callable[[Path], object]) -> None:
    """Let `fetch` fill the folder, unless it exists.

    `owner` is the uid of the run, so that the next attempt of a run continues an interrupted download.
    Raises TrainerError: DiskFull, or what `fetch` raises.
    """
    if folder.is_dir():
        log.info("Model found in the cache", extra={"fields": {"folder": folder.name}})
        return
    partial = folder.with_name(f"{PARTIAL}{owner}-{folder.name}")
    try:
        partial.mkdir(exist_ok=True)
        fetch(partial)
    except (TrainerError, OSError) as error:
        if is_disk_full(error) or (isinstance(error, TrainerError) and error.code is ExitCode.DiskFull):
            shutil.rmtree(partial, ignore_errors=True)
            raise _full() from None
        raise
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(partial, ignore_errors=True)
    log.info("Model kept in the cache", extra={"fields": {"folder": folder.name}})


def _full() -> TrainerError:
    return TrainerError(
        ExitCode.DiskFull,
        "The volume of the model cache is full.",
        "Delete models that no run needs any more, or ask the platform team for a larger volume "
        "(modelCache.claimName of the class).",
    )
