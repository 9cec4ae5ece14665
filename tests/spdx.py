"""What SPDX 2.3 wants of a list of an image's packages, as a checker; and what such a list names.

It knows what our builds write: document, packages, files, licences and relationships; no snippets, no annotations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from packaging.utils import canonicalize_name

Document = dict[str, Any]

_ID = re.compile(r"SPDXRef-[a-zA-Z0-9.-]+")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_CREATOR = re.compile(r"(Tool|Organization|Person): .+")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_LICENCE_REF = re.compile(r"LicenseRef-[a-zA-Z0-9.-]+")
_WANTED = {
    "document": ("SPDXID", "creationInfo", "dataLicense", "documentNamespace", "name", "spdxVersion"),
    "packages": ("SPDXID", "downloadLocation", "name"),
    "files": ("SPDXID", "checksums", "fileName"),
    "hasExtractedLicensingInfos": ("extractedText", "licenseId"),
    "relationships": ("relatedSpdxElement", "relationshipType", "spdxElementId"),
}


def breaches(document: Document) -> list[str]:
    """A sentence for each rule that the document breaks. Pure."""
    missing = list(_missing(document))
    return missing or [
        *_of_document(document),
        *_of_elements(document),
        *_of_relationships(document),
        *_of_licences(document),
    ]


def python_packages(document: Document) -> set[tuple[str, str]]:
    """Canonical name and version of each Python package, also of those that others carry within themselves."""
    return {
        (canonicalize_name(package["name"]), package["versionInfo"])
        for package in document["packages"]
        for reference in package.get("externalRefs", ())
        if reference["referenceLocator"].startswith("pkg:pypi/")
    }


def _elements(document: Document) -> list[Document]:
    return [document, *document.get("packages", ()), *document.get("files", ())]


def _missing(document: Document) -> Iterator[str]:
    for part, fields in _WANTED.items():
        for entry in [document] if part == "document" else document.get(part, ()):
            for field in fields:
                if not entry.get(field):
                    yield f"{part}: {field} is missing in {entry.get('SPDXID', part)}"


def _of_document(document: Document) -> Iterator[str]:
    if (document["spdxVersion"], document["dataLicense"]) != ("SPDX-2.3", "CC0-1.0"):
        yield "document: is not SPDX-2.3 under CC0-1.0"
    if document["SPDXID"] != "SPDXRef-DOCUMENT":
        yield f"document: calls itself {document['SPDXID']}"
    if not document["documentNamespace"].startswith("https://") or "#" in document["documentNamespace"]:
        yield f"document: {document['documentNamespace']} is no namespace"
    creation = document["creationInfo"]
    if not _DATE.fullmatch(creation["created"]):
        yield f"document: created at {creation['created']}"
    if not creation["creators"] or not all(map(_CREATOR.fullmatch, creation["creators"])):
        yield f"document: created by {creation['creators']}"


def _of_elements(document: Document) -> Iterator[str]:
    ids = [element["SPDXID"] for element in _elements(document)]
    for identity in ids:
        if not _ID.fullmatch(identity):
            yield f"{identity}: is no SPDXID"
    if len(set(ids)) < len(ids):
        yield "document: two elements have one SPDXID"
    for file in document.get("files", ()):
        sums = {entry["algorithm"]: entry["checksumValue"] for entry in file["checksums"]}
        if not _SHA1.fullmatch(sums.get("SHA1", "")):
            yield f"{file['SPDXID']}: has no SHA1"


def _of_relationships(document: Document) -> Iterator[str]:
    ids = {element["SPDXID"] for element in _elements(document)}
    described = []
    for relation in document.get("relationships", ()):
        ends = relation["spdxElementId"], relation["relatedSpdxElement"]
        if not set(ends) <= ids:
            yield f"relationships: {' and '.join(ends)} are not both in the document"
        if relation["relationshipType"] == "DESCRIBES" and ends[0] == "SPDXRef-DOCUMENT":
            described.append(ends[1])
    if len(described) != 1:
        yield f"document: describes {described}"


def _of_licences(document: Document) -> Iterator[str]:
    known = {licence["licenseId"] for licence in document.get("hasExtractedLicensingInfos", ())}
    for package in document["packages"]:
        text = f"{package.get('licenseDeclared', '')} {package.get('licenseConcluded', '')}"
        for reference in _LICENCE_REF.findall(text):
            if reference not in known:
                yield f"{package['SPDXID']}: nothing says what {reference} is"
