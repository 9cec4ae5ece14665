"""The commands of documents that need programs of others: openssl is run, Dockerfiles are held against docs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from lora_trainer.publishing.signing import read_signer, read_verifier

from tests.commands.every import of
from tests.documents import execute
from tests.runner.suites import REPOSITORY
from tests.support.runs import run_file

OPENSSL = (
    "openssl genpkey -algorithm ed25519 -out private.pem",
    "openssl pkey -in private.pem -pubout -out public.pem",
    "openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig",
)
BUILDS = [mention.command for mention in of("docker") if mention.command.startswith("docker build")]
SBOM = "docker run --rm --entrypoint cat IMAGE /usr/share/doc/lora-operator/sbom.spdx.json"
DOCKER = (*BUILDS, SBOM)
"""There is no Docker: tests/cluster/images.py builds the Dockerfiles, tests/cluster/test_images.py reads the list."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the keys that openssl makes, and a manifest that the trainer signed with them."""
    make_private, make_public, _ = OPENSSL
    execute(f"{make_private}\n{make_public}", folder=tmp_path, environment={})
    signer = read_signer(
        run_file(output={"signing": {"keySecretRef": {"name": "signing"}}}), (tmp_path / "private.pem").read_text()
    )
    assert signer
    manifest = json.dumps({"files": []}).encode()
    (tmp_path / "manifest.json").write_bytes(manifest)
    (tmp_path / "manifest.json.sig").write_bytes(signer.sign(manifest))
    return tmp_path


def test_openssl_makes_keys_and_checks_what_the_trainer_signs(folder: Path) -> None:
    *_, verify = OPENSSL
    assert read_verifier((folder / "public.pem").read_bytes(), name="public.pem")
    assert "Signature Verified Successfully" in execute(verify, folder=folder, environment={})
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(AssertionError, match="Signature Verification Failure"):
        execute(verify, folder=folder, environment={})


@pytest.mark.parametrize("command", BUILDS)
def test_a_dockerfile_has_the_stage_that_is_built(command: str) -> None:
    words = shlex.split(command)
    assert words[-1] == "."
    text = (REPOSITORY / words[words.index("-f") + 1]).read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE | re.IGNORECASE)
    if "--target" in words:
        assert words[words.index("--target") + 1] in stages
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    copied = [re.sub(r"\$\{\w+\}", "*", source) for line in copies for source in line.split()]
    assert copied
    assert [source for source in copied if not list(REPOSITORY.glob(source))] == []


def test_the_list_of_an_image_is_where_the_command_reads_it() -> None:
    file = Path(SBOM.rsplit(maxsplit=1)[-1])
    script = (REPOSITORY / "requirements/sbom.sh").read_text()
    assert f"folder={file.parent}\n" in script
    assert f"$folder/{file.name}" in script
