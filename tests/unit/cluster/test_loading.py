"""Which layers an image needs in containerd, under which names, and what the importer is told about them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cluster.images import step_ids
from tests.cluster.layer_store import Layer, chain
from tests.cluster.loading import archive_files, chain_ids, snapshot_folder, superseded_references

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_chain_ids_follow_the_image_specification() -> None:
    second = sha256(f"{A} {B}".encode())
    assert chain_ids([A, B, C]) == [A, second, sha256(f"{second} {C}".encode())]
    assert chain_ids([]) == []


def test_the_same_layer_on_different_ones_has_different_chains() -> None:
    assert chain_ids([A, C])[1] != chain_ids([B, C])[1]


def test_the_archive_describes_the_layers_and_holds_none_of_them() -> None:
    configuration = b'{"architecture":"amd64"}'
    layers = [Layer(digest=A, size=7, folder=Path("/x")), Layer(digest=B, size=9, folder=Path("/y"))]
    files = archive_files(tag="localhost/team/image:1", configuration=configuration, layers=layers)

    (descriptor,) = json.loads(files["index.json"])["manifests"]
    manifest_bytes = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    manifest = json.loads(manifest_bytes)
    assert descriptor["digest"] == sha256(manifest_bytes)
    assert descriptor["size"] == len(manifest_bytes)
    assert descriptor["annotations"] == {"io.containerd.image.name": "localhost/team/image:1"}
    assert manifest["config"]["digest"] == sha256(configuration)
    assert [(layer["digest"], layer["size"]) for layer in manifest["layers"]] == [(A, 7), (B, 9)]
    assert len(files) == 4


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"localhost/i:1": A}, []),
        ({"localhost/i:1": A}, {"localhost/i:1": A, "sha256:id": A}, []),
        ({"localhost/i:1": A}, {"localhost/i:1": B, "sha256:old": A, "sha256:new": B}, ["sha256:old"]),
        ({"localhost/i:1": A}, {"localhost/i:1": B, "localhost/i:2": A, "sha256:old": A}, []),
    ],
    ids=["first load", "unchanged", "replaced", "another tag holds it"],
)
def test_only_references_of_the_replaced_image_go(
    before: dict[str, str], after: dict[str, str], expected: list[str]
) -> None:
    assert superseded_references(before, after, tag="localhost/i:1") == expected


@pytest.mark.parametrize(
    ("mount", "folder"),
    [
        ({"Type": "bind", "Source": "/snapshots/1/fs", "Options": ["rw", "rbind"]}, "/snapshots/1/fs"),
        (
            {
                "Type": "overlay",
                "Source": "overlay",
                "Options": ["workdir=/snapshots/2/work", "upperdir=/snapshots/2/fs", "lowerdir=/snapshots/1/fs"],
            },
            "/snapshots/2/fs",
        ),
    ],
)
def test_the_folder_of_a_snapshot(mount: dict[str, object], folder: str) -> None:
    assert snapshot_folder([mount]) == Path(folder)


def test_layers_are_read_from_the_top_down_and_listed_from_the_bottom_up() -> None:
    images = [{"id": "f" * 64, "layer": "top"}, {"id": "0" * 64, "layer": "base"}]
    records = [
        {"id": "top", "parent": "base", "diff-digest": B, "diff-size": 2},
        {"id": "base", "diff-digest": A, "diff-size": 1},
        {"id": "other", "parent": "base", "diff-digest": C, "diff-size": 3},
    ]
    found = chain(images=images, records=records, image_id=f"sha256:{'f' * 64}", store=Path("/s"))
    assert found == [
        Layer(digest=A, size=1, folder=Path("/s/overlay/base/diff")),
        Layer(digest=B, size=2, folder=Path("/s/overlay/top/diff")),
    ]


def test_the_steps_of_a_build_are_found_in_its_log() -> None:
    log = (
        f"STEP 1/2: FROM x\n--> Using cache {'a' * 64}\n--> aaaaaaaaaaa\nSTEP 2/2: RUN echo '--> no'\n--> bbbbbbbbbbb\n"
    )
    assert step_ids(log) == ["aaaaaaaaaaa", "bbbbbbbbbbb"]
