"""The process that runs a user's reward function: `python -I child.py SOURCE FUNCTION FOLDER`. Standard library only.

Confines itself, loads the function, says whether that worked, then answers one line of JSON with another until its
input ends. What the function prints goes to the log (standard error). The function may write into the folder.
"""

import inspect
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

MAX_WORDS = 200
OPTIONAL = "completion_ids"
"""The argument that a function need not take. TRL gives it to all; functions that name their arguments and not this one
worked here before it was given."""


def main(source: str, name: str, folder: str) -> None:
    """Serve calls until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)  # it may be killed at any time

    def reply(message: Mapping[str, object]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    confined = confine(source, folder)
    try:
        function = load(source, name)
    except BaseException as error:  # a user's module may raise anything, SystemExit too
        reply(failure(error, source))
        return
    reply({"confined": confined})
    takes_all = takes(function, OPTIONAL)
    for line in sys.stdin:
        try:
            arguments = json.loads(line)
            if not takes_all:
                del arguments[OPTIONAL]
            reply({"rewards": numbers(function(**arguments))})
        except BaseException as error:  # as above
            reply(failure(error, source))


def confine(source: str, folder: str) -> bool:
    """Confine this process to reading the source and what Python needs, and to writing into the folder. Returns
    whether the kernel does that."""
    confinement = runpy.run_path(str(Path(__file__).with_name("confinement.py")))
    return confinement["confine"](readable=[source, *confinement["interpreter"]()], writable=[folder])


def load(source: str, name: str) -> Callable:
    """The function `name` of the file `source`."""
    text = Path(source).read_text(encoding="utf-8")
    module: dict[str, object] = {"__name__": "reward", "__file__": source}
    exec(compile(text, source, "exec"), module)
    function = module.get(name)
    if not callable(function):
        defined = [key for key, value in module.items() if callable(value) and not key.startswith("_")]
        raise LookupError(f"it defines no function {name} (found {', '.join(defined) or 'none'})")
    return function


def takes(function: Callable, name: str) -> bool:
    """Whether a function can be called with the keyword argument `name`; what does not tell its parameters can."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def numbers(returned: object) -> list:
    """What the function returned, as JSON can carry it; anything else is shown by its type."""
    if not isinstance(returned, list | tuple):
        raise TypeError(f"it returned {type(returned).__name__} instead of a list of numbers")
    # Numbers of numpy and torch know how to become Python's.
    return [value.item() if hasattr(value, "item") else value for value in returned]


def failure(error: BaseException, source: str) -> dict[str, object]:
    """What went wrong, and the innermost line of the user's file."""
    traceback.print_exception(error)
    reply: dict[str, object] = {"error": type(error).__name__, "words": str(error)[:MAX_WORDS]}
    if isinstance(error, SyntaxError) and error.filename == source:
        return reply | {"words": error.msg, "line": error.lineno}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return reply | ({"line": frames[-1].lineno, "function": frames[-1].name} if frames else {})


if __name__ == "__main__":
    main(*sys.argv[1:])
