"""What a process of the pod shows to the others, which run as the same user."""

from __future__ import annotations

import ctypes
import os

from lora_trainer.contract.credentials import SECRET_VARIABLES

PR_SET_DUMPABLE = 4


def hide_from_others() -> None:
    """Keep processes of the same user from reading this one's environment and memory and from tracing it. Processes
    that it forks are hidden too; programs that it starts must hide themselves."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def without_credentials() -> dict[str, str]:
    """The environment for a process that needs no credentials."""
    return {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
