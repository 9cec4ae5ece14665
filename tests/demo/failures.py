"""What to tell somebody whose demo failed: which step, why, and what to run next. Pure."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping

from tests.cluster.commands import RequirementError

AGAIN = "What is done stays done; `make demo` continues from there."


def told(problem: Exception, *, failed: Mapping[str, Exception], look: str = "") -> str:
    """A sentence for each step that failed and one that says what to run next.

    `problem` is what ended the demo, `failed` each step's own; steps that run side by side may fail both. `look` is a
    command that shows more.
    """
    steps = {id(cause): step for step, cause in failed.items()}
    causes = [*failed.values(), *([] if id(problem) in steps else [problem])]
    reasons = [
        f"Step `{steps[id(cause)]}` failed: {_why(cause)}" if id(cause) in steps else _why(cause) for cause in causes
    ]
    return "\n".join([*reasons, f"Next: {_next(causes, look=look)}"])


def _why(cause: Exception) -> str:
    if isinstance(cause, subprocess.CalledProcessError):
        command = cause.cmd if isinstance(cause.cmd, str) else shlex.join(map(str, cause.cmd))
        return f"`{command}` ended with exit code {cause.returncode}; what it printed stands above."
    return str(cause) or repr(cause)


def _next(causes: list[Exception], *, look: str) -> str:
    if all(isinstance(cause, RequirementError) for cause in causes):
        return f"do what is said above, then run `make demo`. {AGAIN}"
    return f"run `{look}` to see more, then `make demo`. {AGAIN}" if look else f"run `make demo` again. {AGAIN}"
