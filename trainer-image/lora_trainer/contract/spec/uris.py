"""What URIs and names of models look like, as patterns."""

from __future__ import annotations

from lora_trainer.contract.spec.names import KEY, SUBDOMAIN

BLANK = r"\x00-\x20\x7f"
"""What no address holds, for a class of characters: blanks and control characters of ASCII."""
_REST = rf"[^{BLANK}?#]"
_BUCKET = r"(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_CLAIM = r"pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?"


_CONFIG_MAP = rf"configmap://{SUBDOMAIN}/{KEY}"
_HUB_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


BUCKET_URI = rf"^{_BUCKET}(/{_REST}*)?$"
DATA_URI = (
    rf"^({_BUCKET}/{_REST}+|{_CLAIM}/{_REST}+|{_CONFIG_MAP}"
    rf"|hf://datasets/{_HUB_ID}/{_HUB_ID}(@[A-Za-z0-9_.%-]+)?(/{_REST}+)?)$"
)
MODEL_NAME = rf"^({_BUCKET}/{_REST}+|{_CLAIM}(/{_REST}+)?|{_HUB_ID}(/{_HUB_ID})?)$"
