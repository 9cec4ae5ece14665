"""Google Cloud Storage and Azure Blob Storage as far as the trainer speaks to them, in memory, for a stub_server.

Neither can be run here; what they answer follows their XML interfaces.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.support.stub_server import Answer, Request

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass
class CloudStore:
    """The objects of one bucket or container, by path."""

    bucket: str
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Answer:
        """The answer to a request of either interface."""
        self.seen.append(request)
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        bucket, _, path = unquote(parts.path.removeprefix("/")).partition("/")
        if bucket != self.bucket:
            return Answer(status=404, body=b"<Error><Code>NoSuchBucket</Code></Error>")
        if "list-type" in query:
            return self._google_list(query.get("prefix", [""])[0])
        if query.get("comp") == ["list"]:
            return self._azure_list(query.get("prefix", [""])[0])
        if query.get("comp") == ["batch"]:
            return self._azure_batch(request)
        return self._object(request, path)

    def _object(self, request: Request, path: str) -> Answer:
        headers = {name.lower(): value for name, value in request.headers.items()}
        match request.method:
            case "PUT":
                fresh = headers.get("if-none-match") == "*" or headers.get("x-goog-if-generation-match") == "0"
                if fresh and path in self.objects:
                    return Answer(status=412 if "x-goog-if-generation-match" in headers else 409)
                self.objects[path] = request.body
                return Answer(status=201, headers={"ETag": self._etag(path)})
            case "DELETE":
                return Answer(status=204 if self.objects.pop(path, None) is not None else 404)
        if path not in self.objects:
            return Answer(status=404, body=b"<Error><Code>BlobNotFound</Code></Error>")
        body = self.objects[path]
        known = {"ETag": self._etag(path), "Last-Modified": DATE, "Content-Length": str(len(body))}
        return Answer(status=200, body=body, headers=known)

    def _etag(self, path: str) -> str:
        return f'"{hashlib.sha256(self.objects[path]).hexdigest()}"'

    def _google_list(self, prefix: str) -> Answer:
        entries = "".join(
            f"<Contents><Key>{escape(path)}</Key><Size>{len(self.objects[path])}</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{escape(self._etag(path))}</ETag></Contents>"
            for path in sorted(self.objects)
            if path.startswith(prefix)
        )
        return Answer(status=200, body=f"<ListBucketResult>{entries}</ListBucketResult>".encode())

    def _azure_list(self, prefix: str) -> Answer:
        entries = "".join(
            f"<Blob><Name>{escape(path)}</Name><Properties><Last-Modified>{DATE}</Last-Modified>"
            f"<Content-Length>{len(self.objects[path])}</Content-Length><Content-Type>text/plain</Content-Type>"
            f"<Etag>{escape(self._etag(path))}</Etag></Properties></Blob>"
            for path in sorted(self.objects)
            if path.startswith(prefix)
        )
        body = f"<EnumerationResults><Blobs>{entries}</Blobs><NextMarker /></EnumerationResults>"
        return Answer(status=200, body=body.encode())

    def _azure_batch(self, request: Request) -> Answer:
        paths = re.findall(rb"DELETE /[^/ ]+/(\S+) HTTP", request.body)
        parts = []
        for number, path in enumerate(paths):
            found = self.objects.pop(unquote(path.decode()), None) is not None
            status = "202 Accepted" if found else "404 Not Found"
            parts.append(
                f"--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
            )
        body = "".join(parts) + "--b--\r\n"
        return Answer(status=202, body=body.encode(), headers={"Content-Type": "multipart/mixed; boundary=b"})
