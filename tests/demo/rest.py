"""The API server over HTTP, as the user of a kubeconfig: a request costs a hundredth of what starting kubectl does.

Tests look at their runs several times a second; with a kubectl for each look they would spend a processor on looking.
One `kubectl proxy` a process knows how to authenticate, whatever the kubeconfig says.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

Body = dict[str, Any]
FIELD_MANAGER = "tests"
TRIES = 5
"""A proxy loses its connection with an API server that is started again."""
SECONDS = 60


class KubectlError(Exception):
    """kubectl, or the API server, said no."""


@dataclass(kw_only=True)
class Rest:
    """Requests through one proxy, which starts with the first of them and ends with this process."""

    kubectl: tuple[str, ...]
    """The command line of kubectl with its kubeconfig."""
    _proxy: subprocess.Popen[str] | None = field(default=None, init=False)
    _address: str = field(default="", init=False)

    def get(self, path: str, **query: str) -> Body | None:
        """The object or list at a path, None where there is none. Raises KubectlError."""
        status, answer = self.request("GET", path, query=query)
        if status == 404:
            return None
        return self._accepted(status, answer)

    def apply(self, path: str, body: Body, *, dry_run: bool = False) -> Body:
        """`kubectl apply --server-side` of the object at a path. Raises KubectlError."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        status, answer = self.request(
            "PATCH",
            path,
            body=body,
            query=query | ({"dryRun": "All"} if dry_run else {}),
            content="application/apply-patch+yaml",  # JSON is YAML
        )
        return self._accepted(status, answer)

    def delete(self, path: str) -> Body:
        """`kubectl delete` of the object at a path, without waiting. Raises KubectlError."""
        return self._accepted(*self.request("DELETE", path))

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> tuple[int, bytes]:
        """Status and body of the answer. Raises KubectlError where there is none."""
        url = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(TRIES):
            try:
                request = urllib.request.Request(
                    f"http://{self._running()}{url}", data=data, method=method, headers={"Content-Type": content}
                )
                with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as refused:
                if refused.code != 502 or attempt == TRIES - 1:  # what the proxy itself says
                    return refused.code, refused.read()
            except OSError as problem:
                if attempt == TRIES - 1:
                    raise KubectlError(f"{method} {path}: {problem}") from None
            self._stop()
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _accepted(self, status: int, answer: bytes) -> Body:
        try:
            body = json.loads(answer)
        except ValueError:
            body = {"message": answer.decode(errors="replace")}
        if status >= 300:
            raise KubectlError(body.get("message", f"status {status}"))
        return body

    def _running(self) -> str:
        """The proxy's address."""
        if self._proxy is None or self._proxy.poll() is not None:
            self._proxy = subprocess.Popen([*self.kubectl, "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
            atexit.register(self._stop)
            line = self._proxy.stdout.readline() if self._proxy.stdout is not None else ""
            if not line.startswith("Starting to serve on "):
                raise KubectlError("kubectl proxy did not start")
            self._address = line.split()[-1]
        return self._address

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait()
            self._proxy = None
