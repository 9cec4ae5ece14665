"""A model hub with one model, for a stub_server."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.stub_server import Answer, Request

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/tiny"


class Hub:
    """A model hub with one model, as far as resolving a model asks it. Its branches mean the newest of its commits,
    which all have the same files."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.commits = [COMMIT]
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        path = request.path.partition("?")[0]
        if (asked := re.search("[0-9a-f]{40}", path)) and asked[0] not in self.commits:
            return Answer(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        commit = asked[0] if asked else self.commits[-1]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": ""} for name, data in self.files.items()]
            return Answer(status=200, body=json.dumps(tree).encode(), headers={"Content-Type": "application/json"})
        if path.startswith(f"/api/models/{NAME}"):
            files = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": NAME, "modelId": NAME, "sha": commit, "siblings": files}).encode()
            return Answer(status=200, body=body, headers={"Content-Type": "application/json"})
        name = path.removeprefix(f"/{NAME}/resolve/{commit}/")
        if name not in self.files:
            return Answer(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return self._file(self.files[name], commit, request.headers.get("Range") or request.headers.get("range"))

    def _file(self, contents: bytes, commit: str, wanted: str | None) -> Answer:
        headers = {"ETag": f'"{len(contents)}"', "X-Repo-Commit": commit}
        if not wanted:
            return Answer(status=200, body=contents, headers=headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = contents[int(first) : int(last) + 1]
        return Answer(status=206, body=part, headers=headers)
