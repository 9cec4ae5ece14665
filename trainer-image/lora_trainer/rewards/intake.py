"""Checks rewards in prepare, and copies the user's code into the prepared set.

Train runs this copy, even if the ConfigMap changes later. Prepare reads the code but does not run it, because its slim
image lacks the libraries that the code may import.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.rewards import PythonReward
from lora_trainer.errors import TrainerError
from lora_trainer.rewards.panel import check, code_file
from lora_trainer.storage import Bucket


def take_rewards(run: RunFile, folder: Path, *, bucket: Bucket) -> str | None:
    """Check the run's rewards and copy their code into `folder`. Returns the code's sha256, None without code.

    Raises ConfigInvalid that names the field, or RewardFailed that names the line.
    """
    grpo = run.training.grpo
    if grpo is None:
        return None
    check(grpo.rewards)
    digest = hashlib.sha256()
    functions = {index: spec.python for index, spec in enumerate(grpo.rewards) if spec.python}
    for index, function in functions.items():
        source = _source(function, index, bucket)
        check_source(function, source)
        (folder / code_file(index)).write_bytes(source)
        digest.update(hashlib.sha256(source).digest())
    return digest.hexdigest() if functions else None


def _source(function: PythonReward, index: int, bucket: Bucket) -> bytes:
    reference = function.config_map_ref
    try:
        return bucket.read(reference.address)
    except FileNotFoundError:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"The namespace has no ConfigMap {reference.name} with a key {reference.key}"
            f" (training.grpo.rewards[{index}].python).",
            "Create the ConfigMap with that key, then apply the LoraFineTune under a new name.",
        ) from None


def check_source(function: PythonReward, source: bytes) -> None:
    """Raise RewardFailed that names the line where `source` is no Python or has no such function."""
    reference = function.config_map_ref
    file = f"{reference.name}/{reference.key}"
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise TrainerError(
            ExitCode.RewardFailed,
            f"The reward function {function.function} in {file} line {error.lineno} is not valid Python: {error.msg}.",
            "Correct it in the ConfigMap and apply the LoraFineTune under a new name.",
        ) from None
    except ValueError:  # a null byte
        raise TrainerError(
            ExitCode.RewardFailed, f"{file} is not text.", "Put Python source into the ConfigMap's key."
        ) from None
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    # A function may also be made by an assignment or an import, which only running it would tell.
    others = any(isinstance(node, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom) for node in tree.body)
    if function.function not in defined and not others:
        raise TrainerError(
            ExitCode.RewardFailed,
            f"{file} defines no function {function.function} (found {', '.join(defined) or 'none'}).",
            "Correct training.grpo.rewards or the ConfigMap, and apply the LoraFineTune under a new name.",
        )
