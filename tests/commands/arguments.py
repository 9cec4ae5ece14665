"""`python -m tests.commands.arguments MODULE ARGUMENT...`: start a program, and end it once its arguments were read.

That is the smallest form of a program that would measure, train or build for minutes: it imports what it needs, can say
how it is used, and takes the arguments. Exit code 2 where it does not take them, and its own where it ended before.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from typing import Any, NoReturn

TAKEN = "arguments taken:"


def stop_after_parsing() -> None:
    """Have argparse end this process where it would return."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: argparse.ArgumentParser, *arguments: Any, **named: Any) -> NoReturn:
        print(parser.format_help())
        print(TAKEN, vars(parse(parser, *arguments, **named)), flush=True)
        raise SystemExit(0)

    setattr(argparse.ArgumentParser, "parse_args", parse_and_end)  # noqa: B010 - no checker would allow another type


def main(module: str, *arguments: str) -> None:
    """Start it as `python -m` does."""
    sys.argv = [module, *arguments]
    stop_after_parsing()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
