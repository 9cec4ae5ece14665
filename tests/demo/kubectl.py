"""kubectl as a function. What it prints is what people would see; errors carry its own words."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.demo.rest import KubectlError, Rest

PATIENCE = 240.0
"""Seconds for whatever nobody measures: five tests at a time share two processors with a real training."""


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """kubectl with one kubeconfig."""

    program: Path | str
    kubeconfig: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The beginning of every command line."""
        return str(self.program), "--kubeconfig", str(self.kubeconfig)

    @property
    def rest(self) -> Rest:
        """The same cluster for whoever asks often."""
        return _rest(self.command)

    def __call__(self, *arguments: object, stdin: str | None = None) -> str:
        """Run it and return what it prints. Raises KubectlError."""
        command = [*self.command, *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(done.stderr.strip() or f"kubectl {' '.join(map(str, arguments))} failed")
        return done.stdout

    def get(self, *arguments: object) -> dict[str, Any]:
        """`kubectl get ... -o json`."""
        return json.loads(self("get", *arguments, "-o", "json"))

    def find(self, *arguments: object) -> dict[str, Any] | None:
        """`kubectl get ... -o json`, or None when it is not there."""
        text = self("get", *arguments, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else None

    def apply(self, *documents: dict[str, Any]) -> str:
        """`kubectl apply` of these objects."""
        return self(
            "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        )

    def apply_crds(self, *options: object) -> None:
        """`kubectl apply` of CRDs, and wait until their kinds are served.

        `kubectl wait` fails on a CRD without conditions, which each new one is for a moment; and the API server lists a
        kind a moment after it calls the CRD established.
        """
        crds = self("apply", "--server-side", "-o", "name", *options).split()
        for crd in crds:
            self.wait_for(f"{crd} is established", lambda crd=crd: self._established(crd))
            kind = crd.partition("/")[2]
            self.wait_for(f"{kind} are served", lambda kind=kind: self._answers("get", kind, "--all-namespaces"))

    def _established(self, crd: str) -> bool:
        conditions = self.get(crd).get("status", {}).get("conditions") or ()
        return any(entry["type"] == "Established" and entry["status"] == "True" for entry in conditions)

    def _answers(self, *arguments: object) -> bool:
        try:
            self(*arguments)
        except KubectlError:
            return False
        return True

    def wait_for(
        self, what: str, ready: Callable[[], object], *, seconds: float = PATIENCE, every: float = 0.5
    ) -> None:
        """Look again and again until it is so. Raises TimeoutError that says what was waited for."""
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s in vain until {what}")
            time.sleep(every)

    def wait_for_rollout(self, namespace: str, deployment: str) -> None:
        """Wait until all pods of a Deployment are there and new. Raises KubectlError."""
        self("-n", namespace, "rollout", "status", f"deployment/{deployment}", f"--timeout={PATIENCE:.0f}s")

    @contextlib.contextmanager
    def port_forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """A local address that leads to the port of a Service or Deployment, as host:port."""
        command = [*self.command, "-n", namespace, "port-forward", target, f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line.startswith("Forwarding from "):
                raise KubectlError(f"kubectl port-forward to {target} in {namespace} did not start")
            yield line.split()[2]
        finally:
            process.terminate()
            process.wait()


@functools.cache
def _rest(command: tuple[str, ...]) -> Rest:
    """One a process and kubeconfig."""
    return Rest(kubectl=command)
