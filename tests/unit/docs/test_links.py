"""Every relative link of README.md, docs and the READMEs of folders leads to a file and a heading that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INDEX = ROOT / "docs/README.md"
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")})
FOLDERS = ("benchmarks", "manifests", "tests")
DOCUMENTS = [*PAGES, *(page for folder in FOLDERS for page in sorted((ROOT / folder).glob("**/*.md")))]
_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def links(text: str) -> list[str]:
    """The targets of all links outside code that lead to files."""
    found = _LINK.findall(_CODE.sub("", text))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, made as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if _numbered(anchor, n) not in found)
        found.add(_numbered(anchor, number))
    return found


def _numbered(anchor: str, number: int) -> str:
    return f"{anchor}-{number}" if number else anchor


def broken(document: Path) -> Iterator[str]:
    """The links of a document that lead nowhere."""
    for link in links(document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert list(broken(document)) == []


def test_the_index_names_every_page() -> None:
    named = {(INDEX.parent / link.partition("#")[0]).resolve() for link in links(INDEX.read_text())}
    pages = {page for page in PAGES if page != INDEX and page.is_relative_to(INDEX.parent)}
    assert {str(page.relative_to(ROOT)) for page in pages - named} == set()


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A `title`, twice\n```\n# no title\n```\n## A title, twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-title-twice) [c](there.md#a-title-twice-1) [d](#own) [e](https://a.example/b)\n"
        "`[f](code.md)` [g](gone.md) [h](there.md#gone) [i](#gone) [j](there.md#no-title)\n# Own\n"
    )
    assert list(broken(page)) == ["gone.md", "there.md#gone", "#gone", "there.md#no-title"]
