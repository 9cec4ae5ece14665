"""The checker of SPDX documents finds what is wrong with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests import spdx

DOCUMENT: dict[str, Any] = {
    "SPDXID": "SPDXRef-DOCUMENT",
    "spdxVersion": "SPDX-2.3",
    "dataLicense": "CC0-1.0",
    "name": "image",
    "documentNamespace": "https://example.com/image-1",
    "creationInfo": {"created": "2026-01-02T03:04:05Z", "creators": ["Tool: example-1.0"]},
    "packages": [
        {
            "SPDXID": "SPDXRef-Package-a",
            "name": "Py_YAML",
            "versionInfo": "6.0.3",
            "downloadLocation": "NOASSERTION",
            "licenseDeclared": "MIT OR LicenseRef-own",
            "externalRefs": [{"referenceLocator": "pkg:pypi/pyyaml@6.0.3"}],
        },
        {"SPDXID": "SPDXRef-root", "name": "image", "downloadLocation": "NOASSERTION"},
    ],
    "files": [
        {
            "SPDXID": "SPDXRef-File-a",
            "fileName": "a",
            "checksums": [{"algorithm": "SHA1", "checksumValue": "0a" * 20}],
        }
    ],
    "hasExtractedLicensingInfos": [{"licenseId": "LicenseRef-own", "extractedText": "Do as you like."}],
    "relationships": [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relatedSpdxElement": "SPDXRef-root",
            "relationshipType": "DESCRIBES",
        },
        {
            "spdxElementId": "SPDXRef-root",
            "relatedSpdxElement": "SPDXRef-Package-a",
            "relationshipType": "CONTAINS",
        },
    ],
}

Break = Callable[[dict[str, Any]], object]


def test_a_good_document_breaks_nothing() -> None:
    assert spdx.breaches(DOCUMENT) == []
    assert spdx.python_packages(DOCUMENT) == {("py-yaml", "6.0.3")}


@pytest.mark.parametrize(
    ("breaking", "told"),
    [
        (lambda document: document.pop("documentNamespace"), "documentNamespace is missing"),
        (lambda document: document["packages"][0].pop("downloadLocation"), "downloadLocation is missing"),
        (lambda document: document.update(spdxVersion="SPDX-3.0"), "is not SPDX-2.3"),
        (lambda document: document.update(documentNamespace="image"), "is no namespace"),
        (lambda document: document["creationInfo"].update(created="today"), "created at today"),
        (lambda document: document["creationInfo"].update(creators=["me"]), "created by"),
        (lambda document: document["packages"][0].update(SPDXID="a"), "is no SPDXID"),
        (lambda document: document["packages"][0].update(SPDXID="SPDXRef-root"), "have one SPDXID"),
        (lambda document: document["files"][0]["checksums"][0].update(checksumValue="?"), "has no SHA1"),
        (lambda document: document["relationships"].pop(0), "describes []"),
        (lambda document: document["relationships"][1].update(relatedSpdxElement="SPDXRef-b"), "not both"),
        (lambda document: document.pop("hasExtractedLicensingInfos"), "nothing says what LicenseRef-own is"),
    ],
)
def test_each_rule_is_told_where_it_is_broken(breaking: Break, told: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    breaking(document)
    assert any(told in breach for breach in spdx.breaches(document)), spdx.breaches(document)
