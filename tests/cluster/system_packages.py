"""The Debian packages that the cluster needs: which are missing, and installing them."""

from __future__ import annotations

import subprocess

from .commands import ClusterError, RequirementError, require_program, run
from .settings import SYSTEM_PACKAGES


def missing() -> list[str]:
    """The needed packages that dpkg does not list as installed."""
    require_program("dpkg-query", remedy="this cluster is made for Debian 12 and its relatives.")
    listing = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *SYSTEM_PACKAGES],
        capture_output=True,
        text=True,
        check=False,  # it exits 1 when any of them is unknown, which is an answer here
    ).stdout
    installed = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [name for name in SYSTEM_PACKAGES if name not in installed]


def require() -> None:
    """Raise RequirementError that names the missing packages and the command that installs them."""
    if names := missing():
        raise RequirementError(f"Debian packages are missing ({', '.join(names)}): run `make system-packages` as root.")


def install() -> list[str]:
    """Install what is missing and return the names; a second call does nothing."""
    names = missing()
    if names:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "--quiet"], env=quiet)
        run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *names], env=quiet)
        if still := missing():
            raise ClusterError(f"apt-get ended well but these packages are still not installed: {', '.join(still)}.")
    return names
