"""Turns errors of an object store into messages about the bucket and the Secret. Does no I/O.

The store's own text is never passed on, because it may contain credentials.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from lora_trainer.contract.exits import ExitCode
from lora_trainer.errors import TrainerError, disk_full, is_disk_full

CREDENTIAL_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY)",
}
METADATA_PATHS = (
    "/latest/api/token",
    "/latest/meta-data/",
    "/computeMetadata/v1/",
    "/metadata/identity/oauth2/token",
)
"""Paths of the cloud's metadata server, asked last: an error there means that the client found no credentials."""
BAD_CREDENTIALS = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "XAdminUserNotFound",  # versitygw's code for an unknown access key, sent with status 404
    "AuthenticationFailed",  # Azure's
)
LOST_UPLOAD = "NoSuchUpload"
"""Code where a multipart upload is completed a second time, because the first answer was lost: upload again."""
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
NO_FILE = (None, "NoSuchKey", "BlobNotFound")


@contextmanager
def explained(uri: str, action: str) -> Iterator[None]:
    """Turn the store's errors into TrainerErrors that name bucket, action and remedy.

    FileNotFoundError passes unless the bucket is missing, because only the caller knows what a missing file means.
    """
    try:
        yield
    except (BaseError, OSError) as error:
        if is_disk_full(error):
            raise disk_full() from None
        text = str(error)
        code = _s3_code(text)
        if isinstance(error, FileNotFoundError) and code in NO_FILE and action != "write":
            raise
        # A write is never answered "not found" for its key: the bucket is what is missing.
        bucket_missing = code in NO_BUCKET or (isinstance(error, FileNotFoundError) and code is None)
        raise _explanation(error, text, uri=uri, action=action, bucket_missing=bucket_missing) from None


def _explanation(error: Exception, text: str, *, uri: str, action: str, bucket_missing: bool) -> TrainerError:
    bucket = uri.partition("://")[2].partition("/")[0]
    status, code = _http_status(text), _s3_code(text)
    detail = f" ({code})" if code else f" (HTTP {status})" if status else ""
    if bucket_missing:
        return TrainerError(
            ExitCode.StorageDenied,
            f"The bucket {bucket!r} does not exist, so the trainer could not {action} {uri}.",
            "Create the bucket, or correct the URI or the storage endpoint.",
        )
    if isinstance(error, PermissionError):
        return TrainerError(
            ExitCode.StorageDenied,
            f"User {os.getuid()} of this pod may not read the files of {uri}.",
            "Make them readable for all users, or set fsGroup on the volume.",
        )
    if any(path in text for path in METADATA_PATHS):
        return no_credentials(uri, action=action)
    if (
        isinstance(error, PermissionDeniedError | UnauthenticatedError)
        or status in (401, 403)
        or code in BAD_CREDENTIALS
    ):
        return TrainerError(
            ExitCode.StorageDenied,
            f"The bucket {bucket!r} refused to {action} {uri}{detail}.",
            _denied_remedy(code, action=action, bucket=bucket, keys=credential_keys(uri)),
        )
    if status is not None and 300 <= status < 500 and status not in (408, 409, 412, 429) and code != LOST_UPLOAD:
        return TrainerError(
            ExitCode.StorageDenied,
            f"The bucket {bucket!r} did not accept the request to {action} {uri}{detail}.",
            "Check the storage endpoint and region.",
        )
    return TrainerError(
        ExitCode.StorageUnavailable,
        f"The object store did not answer the request to {action} {uri}{detail}.",
        "Check that the storage endpoint is right and reachable from this namespace.",
    )


def no_credentials(uri: str, *, action: str) -> TrainerError:
    """The ending for an environment without any credentials."""
    return TrainerError(
        ExitCode.StorageDenied,
        f"This pod has no credentials to {action} {uri}.",
        f"Put {credential_keys(uri)} into the storage Secret.",
    )


def credential_keys(uri: str) -> str:
    """The Secret's keys for the store of a URI, for messages."""
    return CREDENTIAL_KEYS.get(uri.partition("://")[0], "credentials")


def _denied_remedy(code: str | None, *, action: str, bucket: str, keys: str) -> str:
    if code in BAD_CREDENTIALS:
        return f"Correct {keys} in the storage Secret."
    if code == "RequestTimeTooSkewed":
        return "Set the clock of the node: it differs too much from the object store's."
    return f"Allow these credentials to {action} in bucket {bucket!r}, or correct {keys} in the Secret."


def _http_status(text: str) -> int | None:
    if "Received redirect without LOCATION" in text:
        return 301
    found = re.search(r"status code: (\d{3})", text)
    return int(found.group(1)) if found else None


def _s3_code(text: str) -> str | None:
    found = re.search(r"<Code>(\w{1,64})</Code>", text)
    return found.group(1) if found else None
