"""Building images with buildah, without Docker and without a registry. Loading them into the cluster is not done here.

buildah keeps its store in our cache folder, so the machine's own images are not touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import ClusterError, RequirementError, run
from .settings import BASE_IMAGE, HERE, Paths

Report = Callable[[str], None]

# Not below our state folder, because images can be built without a cluster; buildah wants it gone after a reboot.
_RUN_ROOT = Path("/run/lora-operator-buildah")
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}

_SUITE = "bookworm"
_BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """An image in buildah's store. `configuration` is the JSON whose digest is the image's id."""

    id: str
    configuration: str
    labels: Mapping[str, str]


def store(paths: Paths) -> Path:
    """The folder of buildah's store."""
    return paths.images / "buildah"


def command(paths: Paths, *arguments: object) -> list[str]:
    """The argument list of a buildah call on our store."""
    roots = ("--root", str(store(paths)), "--runroot", str(_RUN_ROOT))
    return ["buildah", *roots, *map(str, arguments)]


def inspect(tag: str, *, paths: Paths) -> LocalImage | None:
    """The image of that tag in buildah's store, or None."""
    arguments = command(paths, "inspect", "--type", "image", tag)
    completed = subprocess.run(
        arguments, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        if "image not known" in completed.stderr:
            return None
        raise ClusterError(f"buildah cannot look at {tag}: {completed.stderr.strip()}")
    found = json.loads(completed.stdout)
    return LocalImage(
        id=f"sha256:{found['FromImageID']}",
        configuration=found["Config"],
        labels=found["OCIv1"]["config"].get("Labels") or {},
    )


def build(
    *,
    paths: Paths,
    context: Path,
    file: Path,
    tag: str,
    report: Report,
    target: str | None = None,
    arguments: Mapping[str, str] | None = None,
) -> LocalImage:
    """Build a Dockerfile; unchanged layers come from the store. Its output goes to a log that an error quotes.

    BASE_IMAGE defaults to our base image, and the downloads of uv and pip are shared with this machine's caches.
    """
    for needed in (file, context):
        if not needed.exists():
            raise RequirementError(f"{needed} does not exist; name the Dockerfile with --file and then the context.")
    options = ["--layers", "--file", file, "--tag", tag]
    for name, value in {"BASE_IMAGE": BASE_IMAGE, **(arguments or {})}.items():
        options += ["--build-arg", f"{name}={value}"]
    for tool in ("uv", "pip"):
        (paths.cache / tool).mkdir(parents=True, exist_ok=True)
        options += ["--volume", f"{paths.cache / tool}:/root/.cache/{tool}"]
    if target:
        options += ["--target", target]
    started = time.monotonic()
    before = inspect(tag, paths=paths)
    _run_build(command(paths, "bud", *options, context), tag=tag, paths=paths)
    image = inspect(tag, paths=paths)
    if image is None:
        raise ClusterError(f"buildah built {tag} but does not know it; its log is {_build_log(tag, paths=paths)}.")
    if not before or before.id != image.id:
        report(f"{tag} is built after {time.monotonic() - started:.1f} s")
    return image


def read_file(tag: str, path: str, *, paths: Paths) -> str:
    """A file of an image in buildah's store. Raises FileNotFoundError, or ClusterError without such an image."""
    container = run(command(paths, "from", "--pull-never", tag), env=_ENVIRONMENT).strip()
    try:
        root = run(command(paths, "mount", container), env=_ENVIRONMENT).strip()
        return (Path(root) / path.lstrip("/")).read_text()
    finally:
        run(command(paths, "rm", container), env=_ENVIRONMENT)


def run_program(tag: str, argv: Sequence[object], *, folders: Sequence[Path], paths: Paths) -> None:
    """Run a program of an image in buildah's store, as root; it finds the folders under their own names.

    Raises ClusterError when it fails. Nothing but what it writes into the folders stays.
    """
    container = run(command(paths, "from", "--pull-never", tag), env=_ENVIRONMENT).strip()
    volumes = [word for folder in folders for word in ("--volume", f"{folder}:{folder}")]
    try:
        run(command(paths, "run", "--user", "0:0", *volumes, container, "--", *argv), env=_ENVIRONMENT)
    finally:
        run(command(paths, "rm", container), env=_ENVIRONMENT)


def _run_build(argv: list[str], *, tag: str, paths: Paths) -> None:
    """Run buildah, keep its log, and remove the steps of the tag's former build that no tag's build uses any more."""
    log = _build_log(tag, paths=paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    draft = log.with_suffix(".running")
    with draft.open("w") as output:
        completed = subprocess.run(
            argv, env={**os.environ, **_ENVIRONMENT}, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if completed.returncode:
        tail = "\n".join(draft.read_text(errors="replace").splitlines()[-20:])
        raise ClusterError(f"Building {tag} failed; the end of {draft}:\n{tail}")
    former = step_ids(log.read_text(errors="replace")) if log.exists() else []
    draft.rename(log)
    in_use = {step for other in log.parent.glob("*.log") for step in step_ids(other.read_text(errors="replace"))}
    for step in reversed(former):  # the last steps first, because an image that others stand on cannot be removed
        if step not in in_use:
            subprocess.run(
                command(paths, "rmi", step), env={**os.environ, **_ENVIRONMENT}, capture_output=True, check=False
            )


def _build_log(tag: str, *, paths: Paths) -> Path:
    return paths.images / "build-logs" / f"{tag.replace('/', '_').replace(':', '_')}.log"


def step_ids(log: str) -> list[str]:
    """The short ids of the images that a build's steps made or took from the cache, in order. Pure."""
    return re.findall(r"^--> ([0-9a-f]{11})$", log, flags=re.MULTILINE)


def build_static(*, paths: Paths, tag: str, program: Path, report: Report) -> LocalImage:
    """An image FROM scratch around one static program, by containerfiles/<program>.Dockerfile."""
    with tempfile.TemporaryDirectory(prefix="lora-operator-image-") as scratch:
        shutil.copy(program, scratch)
        file = HERE / f"containerfiles/{program.name}.Dockerfile"
        return build(paths=paths, context=Path(scratch), file=file, tag=tag, report=report)


def build_base(*, paths: Paths, report: Report) -> LocalImage:
    """The image that the Dockerfiles' BASE_IMAGE names: Debian with Python, from Debian's own packages.

    The unpacked system is kept as an archive, so that an emptied store is filled again within seconds.
    """
    bundle = certificate_bundle()
    contents = f"{_SUITE} {' '.join(_BASE_PACKAGES)} {hashlib.sha256(bundle.read_bytes()).hexdigest()}"
    if (image := inspect(BASE_IMAGE, paths=paths)) and image.labels.get("contents") == contents:
        return image
    archive = paths.images / f"base-{_SUITE}-{'-'.join(_BASE_PACKAGES)}.tar"
    if not archive.exists():
        _bootstrap(archive, report=report)
    with tempfile.TemporaryDirectory(dir=paths.images, prefix=".base-") as scratch:
        context = Path(scratch)
        (context / "rootfs.tar").hardlink_to(archive)
        shutil.copy(bundle, context / "ca-certificates.crt")
        return build(
            paths=paths,
            context=context,
            file=HERE / "containerfiles/base.Dockerfile",
            tag=BASE_IMAGE,
            arguments={"CONTENTS": contents},
            report=report,
        )


def certificate_bundle() -> Path:
    """The certificates that this machine trusts: SSL_CERT_FILE, or Debian's bundle."""
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        raise RequirementError(f"The certificate bundle {bundle} does not exist: set SSL_CERT_FILE to one that does.")
    return bundle


def _bootstrap(archive: Path, *, report: Report) -> None:
    started = time.monotonic()
    report(f"installing Debian {_SUITE} for the base image")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".bootstrap-") as scratch:
        root, draft = Path(scratch) / "root", Path(scratch) / "rootfs.tar"
        mirror = _mirror()
        # debootstrap mounts /proc below its folder. In a mount namespace of its own no mount is left here when it dies,
        # so whoever removes the folder never walks into /proc.
        debootstrap = ["unshare", "--mount", "debootstrap", "--variant=minbase"]
        run([*debootstrap, f"--include={','.join(_BASE_PACKAGES)}", _SUITE, root, mirror])
        exclude = [f"--exclude=./{path}" for path in ("dev/*", "proc/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
        run(
            [
                "tar",
                "--create",
                "--numeric-owner",
                "--one-file-system",
                *exclude,
                "--file",
                draft,
                "--directory",
                root,
                ".",
            ]
        )
        draft.rename(archive)
    report(f"Debian {_SUITE} is ready after {time.monotonic() - started:.1f} s")


def remove_runtime_state() -> None:
    """Remove buildah's scratch state; its store stays."""
    shutil.rmtree(_RUN_ROOT, ignore_errors=True)


def _mirror() -> str:
    """The archive that this machine's apt takes the suite from. Raises RequirementError where it has none."""
    query = ["apt-get", "indextargets", "--format", "$(SITE)", f"Codename: {_SUITE}", "Created-By: Packages"]
    sites = run(query).split()
    if not sites:
        raise RequirementError(
            f"apt knows no archive of Debian {_SUITE}: add one to its sources and run apt-get update."
        )
    return sites[0]
