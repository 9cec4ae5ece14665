"""The operator as a process of this machine, with the rights of its own ServiceAccount, and what its log tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster import health
from tests.cluster.pki import CA_FILE
from tests.cluster.settings import Paths
from tests.demo.environment import MANIFESTS, OPERATOR_NAMESPACE
from tests.demo.kubectl import Kubectl
from tests.fuzz.judge import Violation

PORT = 18080
READY = f"http://127.0.0.1:{PORT}/readyz"
SECONDS = 60
"""In which it must be ready."""


@dataclass(kw_only=True)
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path
    _read: int = 0
    """How much of the log was looked at."""

    def check(self) -> None:
        """Raises Violation when it has ended, or has told since the last time of something that it did not foresee."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            lines = log.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        self._read += sum(map(len, whole))
        if trouble := next((line.decode() for line in whole if _is_trouble(line.decode())), None):
            raise Violation(f"the operator logged {trouble[:4000]}")
        if self.ended:
            raise Violation(f"the operator ended with exit code {self.process.returncode}")

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self.process.poll() is not None

    def said_of(self, run: str) -> str:
        """The last lines of the log that name the run."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if f"/{run}" in line]
        return "\n".join(line[:2000] for line in lines[-3:])


def _is_trouble(line: str) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return "Traceback" in line
    # Kopf asks again where the API server is busy, and calls that an error.
    trouble = entry.get("severity") in ("error", "critical") and "will retry" not in entry.get("message", "")
    return trouble or "Traceback" in line


def install(kubectl: Kubectl) -> None:
    """The operator's manifests, all but a node for its Deployment's pods."""
    kubectl.apply_crds("-k", MANIFESTS / "crd")
    kubectl("apply", "--server-side", "-k", MANIFESTS / "install")


@contextmanager
def operator(kubectl: Kubectl, *, paths: Paths) -> Iterator[Operator]:
    """The operator, ready, until the block ends. Raises Violation."""
    token = kubectl("-n", OPERATOR_NAMESPACE, "create", "token", "lora-operator", "--duration=24h").strip()
    given = yaml.safe_load(paths.kubeconfig.read_text())
    given["users"][0]["user"] = {"token": token}
    kubeconfig, log = paths.state / "operator.kubeconfig", paths.logs / "operator.log"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(given))
    environment = {"KUBECONFIG": str(kubeconfig), "LORA_OPERATOR_PORT": str(PORT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lora_operator"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    found = Operator(process=process, log=log)
    try:
        deadline = time.monotonic() + SECONDS
        while not health.healthy(READY, ca_file=paths.pki / CA_FILE):
            found.check()
            if time.monotonic() > deadline:
                raise Violation(f"the operator is not ready after {SECONDS} s")
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait()
