"""What a cluster leaves on the machine outside its own folders, remembered before it starts and put back after it.

Kernel settings get their old values; fixed places that kubelet and containerd insist on are removed when they were not
there before; mounts below our folders and empty pod cgroups go in any case.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from .commands import run

_PROC_SYS = Path("/proc/sys")
_KERNEL_SETTINGS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
_FIXED_PLACES = (
    "/etc/cni",
    "/opt/cni",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/run/kubernetes",
)


def remember(file: Path) -> None:
    """Write down how the machine is now; keeps an older note."""
    if not file.exists():
        settings = {name: (_PROC_SYS / name).read_text().strip() for name in _KERNEL_SETTINGS}
        absent = [place for place in _FIXED_PLACES if not Path(place).exists()]
        file.write_text(json.dumps({"kernel_settings": settings, "absent_places": absent}, indent=2))


def restore(file: Path) -> None:
    """Put back what `remember` wrote down; nothing without a note."""
    if file.exists():
        note = json.loads(file.read_text())
        for name, value in note["kernel_settings"].items():
            (_PROC_SYS / name).write_text(value)
        for place in note["absent_places"]:
            shutil.rmtree(place, ignore_errors=True)


def mount_points(mountinfo: str, *, below: Iterable[Path]) -> list[Path]:
    """The mount points inside the folders, innermost first. Pure: takes the text of /proc/self/mountinfo."""
    points = [
        Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]))
        for line in mountinfo.splitlines()
    ]
    folders = list(below)
    return [point for point in reversed(points) if any(point.is_relative_to(folder) for folder in folders)]


def unmount(*, below: Iterable[Path]) -> list[Path]:
    """Unmount everything inside the folders and return what it was."""
    points = mount_points(Path("/proc/self/mountinfo").read_text(), below=below)
    for point in points:
        run(["umount", "--lazy", point])
    return points


def remove_pod_cgroups() -> None:
    """Remove kubelet's cgroups. rmdir refuses those with processes, so another kubelet's pods are safe."""
    for root in {*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")}:
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                continue
