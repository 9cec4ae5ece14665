"""Environment variables in which a pod holds credentials: the operator fills them from Secrets, the trainer reads them
and never shows them."""

from __future__ import annotations

REQUIRED_CREDENTIALS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME",),
}
"""Variables that a store requires, by the scheme of its URIs."""
OPTIONAL_CREDENTIALS = ("AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_KEY")
HUB_TOKEN_VARIABLE = "HF_TOKEN"
SIGNING_KEY_VARIABLE = "LORA_SIGNING_KEY"
"""The private key that output.signing names."""
PUBLIC_NAMES = ("AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME")
"""Names of accounts, which are not secret."""
SECRET_VARIABLES = tuple(
    name
    for names in (*REQUIRED_CREDENTIALS.values(), OPTIONAL_CREDENTIALS, (HUB_TOKEN_VARIABLE, SIGNING_KEY_VARIABLE))
    for name in names
    if name not in PUBLIC_NAMES
)
"""Variables whose values must never appear in a log or message."""
