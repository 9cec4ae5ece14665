"""The chat template that a run names: Unsloth's named ones come from a file that is made while the image is built."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lora_trainer.contract.exits import ExitCode
from lora_trainer.contract.spec.dataset import ChatTemplateSpec
from lora_trainer.errors import TrainerError

VARIABLE = "LORA_CHAT_TEMPLATES"
"""Environment variable with the path of that file: {name: Jinja source} (see export_chat_templates.py)."""


def template_source(spec: ChatTemplateSpec | None) -> str | None:
    """Jinja source of the named or written template; None for the tokenizer's own. Raises ConfigInvalid."""
    if spec is None:
        return None
    if spec.name is None:
        return spec.jinja
    path = Path(os.environ.get(VARIABLE) or "chat_templates.json")
    try:
        named = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"This image cannot read Unsloth's chat templates ({path}), which dataset.chatTemplate.name needs.",
            "Use an image that was built from trainer-image/Dockerfile, or write the template in"
            " dataset.chatTemplate.jinja.",
        ) from None
    if spec.name not in named:
        raise TrainerError(
            ExitCode.ConfigInvalid,
            f"Unsloth in this trainer image has no chat template {spec.name!r} (dataset.chatTemplate.name).",
            f"Choose one of {', '.join(sorted(named))}; or write the template in dataset.chatTemplate.jinja.",
        )
    return named[spec.name]
