"""Sets up and imports the training libraries, and reports their versions. Loads no model.

Unsloth patches transformers, TRL and PEFT when it is imported, so it must be imported before them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_trainer import __version__
from lora_trainer.contract.run import AcceleratorKind
from lora_trainer.contract.spec.training import Method

LIBRARIES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "bitsandbytes")


def versions() -> dict[str, str]:
    """Versions of the trainer and of the libraries that shape an adapter."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES} | {"lora_trainer": __version__}


def compiled_folder(scratch: Path) -> Path:
    """Where torch and Triton keep what they compile."""
    return scratch / "compiled"


def environment(*, kind: AcceleratorKind, scratch: Path, rank: int = 0, ranks: int = 1) -> dict[str, str]:
    """Environment variables that must be set before torch or Unsloth is imported, in process `rank` of `ranks`."""
    # On a CPU class, hide any GPU that the node may have.
    on_cpu = {"UNSLOTH_FORCE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}
    backend = on_cpu if kind == AcceleratorKind.CPU else {"UNSLOTH_DISABLE_CPU_FALLBACK": "1"}
    return backend | {
        # Send no telemetry, and install or download nothing unasked.
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_DISABLE_LLM_COMPRESSOR_AUTOINSTALL": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_KUBEFLOW_INTEGRATION": "TRUE",
        # The root file system is read-only.
        "HOME": str(scratch),
        "TMPDIR": str(_folder(scratch / "tmp")),
        "HF_HOME": str(scratch / "huggingface"),
        "UNSLOTH_COMPILE_LOCATION": str(scratch / f"unsloth_compiled_cache_{rank}"),
        # Compiled code is kept in the bucket (training/compile_cache.py). Unsloth's own cache stays in the pod.
        "UNSLOTH_MEGA_CACHE": "0",
        "TRITON_CACHE_DIR": str(compiled_folder(scratch) / "triton"),
        # Unsloth's layers contain such functions: without this, each run traces their graphs again.
        "TORCHINDUCTOR_AUTOGRAD_CACHE_ALLOW_CUSTOM_AUTOGRAD": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Progress bars write lines of a megabyte into a pod's log.
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # torch would use all of the node's CPUs, not the pod's share.
        "OMP_NUM_THREADS": str(max(1, processors() // ranks)),
        # Idle threads spin for a moment, then sleep. Sleeping at once halves the speed on two cores; spinning for long
        # uses a CPU that another process could use.
        "GOMP_SPINCOUNT": "20000",
    }


def processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Number of CPUs that this process may use, limited by its CPU affinity and the pod's CPU limit."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):
        return available
    return available if quota == "max" else max(1, min(available, int(quota) // int(period)))


def go_offline() -> None:
    """Let all later downloads by libraries fail at once instead of waiting for a hub."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def import_libraries(*, scratch: Path, method: Method) -> None:
    """Import Unsloth and, through it, all other libraries for this method. Takes many seconds of one CPU."""
    # Imported objects stay: collecting garbage among them takes an eighth of the import, and half a second each of the
    # dozen times that Unsloth collects garbage while it loads a model.
    gc.disable()
    with other_trainers_hidden(method):
        import unsloth  # noqa: F401 - see the module's docstring

    gc.freeze()
    gc.enable()
    # Unsloth removes this variable when it is imported.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled_folder(scratch) / "inductor")


@contextmanager
def other_trainers_hidden(method: Method) -> Iterator[None]:
    """Hide TRL's trainers in this block, except that of `method` and its base.

    Unsloth rewrites every trainer that it finds while it is imported, experiments too, and a run needs one of them:
    without the others the import takes two fifths less. SFT's stays for every method, as Unsloth imports it by name. To
    Python, None in sys.modules is a module that does not exist
    (https://docs.python.org/3/reference/import.html#the-module-cache).
    """
    trl = Path(str(importlib.metadata.distribution("trl").locate_file("trl")))
    found = {f"trl.experimental.{path.parent.name}" for path in trl.glob("experimental/*/*_trainer.py")}
    found |= {f"trl.trainer.{path.stem}" for path in trl.glob("trainer/*_trainer.py")}
    needed = {f"trl.trainer.{name}_trainer" for name in ("base", Method.SFT.lower(), method.lower())}
    modules: dict[str, Any] = sys.modules
    hidden = found - needed - modules.keys()
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
