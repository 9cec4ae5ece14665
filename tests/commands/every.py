"""Every command that README.md, docs and the READMEs of folders name, by what starts it in a test."""

from __future__ import annotations

from pathlib import Path

from tests.documents import Mention, mentions
from tests.runner.suites import REPOSITORY

WORDS_ONLY = ("kubectl apply",)
"""What a sentence calls something by, without meaning a command."""
DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("manifests/**/README.md"),
        *REPOSITORY.glob("tests/*/README.md"),
    ]
)


def _named(document: Path) -> list[Mention]:
    return [mention for mention in mentions(document.read_text()) if mention.command not in WORDS_ONLY]


EVERY = sorted({mention for document in DOCUMENTS for mention in _named(document)})


def of(*programs: str) -> list[Mention]:
    """Those of these programs."""
    return [mention for mention in EVERY if mention.command.split()[0] in programs]


MAKES = sorted({mention.command for mention in of("make")})
