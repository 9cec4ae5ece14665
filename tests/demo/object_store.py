"""The demo's bucket as seen from the host: accounts, uploads, downloads, through a port-forward."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obstore.store import S3Store

from tests.demo.kubectl import Kubectl, KubectlError

NAMESPACE = "object-store"
ROOT_SECRET = "object-store-root"
BUCKET = "lora"
ENDPOINT = "http://object-store.object-store.svc:7070"
STORAGE_SECRET = "lora-storage"
ALREADY = ("UserAlreadyExists", "already exists", "BucketAlreadyOwnedByYou", "BucketAlreadyExists")


@dataclass(frozen=True, kw_only=True)
class Account:
    """Keys of one account of the object store."""

    access: str
    secret: str

    def as_secret(self, namespace: str) -> dict[str, Any]:
        """The Secret that a LoraFineTuneClass points to."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": STORAGE_SECRET, "namespace": namespace},
            "stringData": {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret},
        }


def ensure_root_secret(kubectl: Kubectl) -> None:
    """Make the server's root keys, once."""
    if kubectl.find("-n", NAMESPACE, "secret", ROOT_SECRET) is None:
        keys = {"accessKeyId": "root", "secretAccessKey": secrets.token_hex(20)}
        metadata = {"name": ROOT_SECRET, "namespace": NAMESPACE}
        kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})


def ensure_account(kubectl: Kubectl, *, namespace: str, bucket: str = BUCKET) -> Account:
    """An account that owns the bucket, and its Secret in the namespace. Made once; the Secret remembers it."""
    known = kubectl.find("-n", namespace, "secret", STORAGE_SECRET)
    if known is not None:
        account = _account_of(known)
    else:
        account = Account(access=namespace, secret=secrets.token_hex(20))
        kubectl.apply(account.as_secret(namespace))
    # The server's data goes with its pod, so account and bucket may be gone while the Secret is still there.
    _admin(kubectl, "create-user", "--access", account.access, "--secret", account.secret, "--role", "user")
    _admin(kubectl, "create-bucket", "--owner", account.access, "--bucket", bucket)
    return account


def ensure_reader(kubectl: Kubectl, *, owner: Account, bucket: str) -> Account:
    """An account that may read a bucket of its own and not write it."""
    reader = Account(access="reader", secret=secrets.token_hex(20))
    _admin(kubectl, "create-user", "--access", reader.access, "--secret", reader.secret, "--role", "user")
    grant = ("--object-ownership", "BucketOwnerPreferred", "--grant-read", reader.access)
    _admin(kubectl, "create-bucket", "--owner", owner.access, "--bucket", bucket, *grant)
    return reader


def _account_of(secret: dict[str, Any]) -> Account:
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    return Account(access=data["AWS_ACCESS_KEY_ID"], secret=data["AWS_SECRET_ACCESS_KEY"])


def _admin(kubectl: Kubectl, *arguments: str) -> None:
    """The server's own admin command; what is there already is fine."""
    try:
        kubectl("-n", NAMESPACE, "exec", "deployment/object-store", "--", "/versitygw", "admin", *arguments)
    except KubectlError as problem:
        if not any(word in str(problem) for word in ALREADY):
            raise


@contextlib.contextmanager
def bucket(kubectl: Kubectl, account: Account, *, name: str = BUCKET) -> Iterator[S3Store]:
    """The bucket, reachable from here."""
    with kubectl.port_forward(NAMESPACE, "service/object-store", 7070) as address:
        yield S3Store(
            name,
            endpoint=f"http://{address}",
            region="us-east-1",
            access_key_id=account.access,
            secret_access_key=account.secret,
            client_options={"allow_http": True},
        )


def upload_folder(store: S3Store, folder: Path, prefix: str) -> None:
    """Upload a folder, unless the same files are there already."""
    present = {entry["path"]: entry["size"] for page in store.list(prefix) for entry in page}
    for path in sorted(folder.rglob("*")):
        key = f"{prefix}/{path.relative_to(folder)}"
        if path.is_file() and present.get(key) != path.stat().st_size:
            store.put(key, path)


def delete_folder(store: S3Store, prefix: str) -> None:
    """Delete everything below the prefix."""
    for page in store.list(f"{prefix}/"):
        store.delete([entry["path"] for entry in page])


def path_of(uri: str) -> str:
    """Path inside the bucket."""
    return uri.split("/", 3)[3]


def read_json(store: S3Store, uri: str) -> Any:
    """An object of the bucket, parsed."""
    return json.loads(bytes(store.get(path_of(uri)).bytes()))


def whole_adapter(store: S3Store, uri: str) -> Any:
    """The manifest of the adapter at `uri`, whose files are all read and compared with it."""
    manifest = read_json(store, f"{uri}/manifest.json")
    for file in manifest["files"]:
        data = bytes(store.get(f"{path_of(uri)}/{file['path']}").bytes())
        assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
    return manifest
