"""`python3 export_chat_templates.py <folder of the package unsloth>`: its named chat templates as JSON on stdout.

Run while the image is built, because prepare has no Unsloth: {name: Jinja source}, with Unsloth's default system
messages filled in. The templates carry Unsloth's licence, so they are made here and not kept in the repository.
Imports the one module that holds them, with stand-ins for what that imports: neither torch nor a GPU is needed.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

STAND_INS = {
    "transformers": {"ProcessorMixin": object},
    "transformers.utils": {"logging": SimpleNamespace(get_logger=logging.getLogger)},
    "unsloth_zoo": {},
    "unsloth_zoo.dataset_utils": {"train_on_responses_only": None, "standardize_data_formats": None},
    "torch": {"LongTensor": None, "FloatTensor": None},
}
"""What unsloth/chat_templates.py imports and its templates do not need."""


def named_templates(package: Path) -> dict[str, str]:
    """Unsloth's named chat templates as get_chat_template would set them."""
    for name, contents in STAND_INS.items():
        stand_in = ModuleType(name)
        stand_in.__dict__.update(contents)
        sys.modules[name] = stand_in
    # The package's own __init__ loads everything; an empty one lets its modules be imported by themselves.
    unsloth = ModuleType("unsloth")
    unsloth.__path__ = [str(package)]
    sys.modules["unsloth"] = unsloth
    module = importlib.import_module("unsloth.chat_templates")
    return {name: _template(module, name) for name in sorted(module.CHAT_TEMPLATES)}


def _template(module: ModuleType, name: str) -> str:
    source, _ = module._change_system_message(module.CHAT_TEMPLATES[name][0], name)
    return source


if __name__ == "__main__":
    json.dump(named_templates(Path(sys.argv[1])), sys.stdout, indent=1, ensure_ascii=False)
