"""What URIs and names look like, as patterns."""

from __future__ import annotations

_BUCKET = r"(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_CLAIM = r"pvc://[a-z0-9]([-a-z0-9]*[a-z0-9])?"


_CONFIG_MAP = r"configmap://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+"
_HUB_ID = r"[A-Za-z0-9][\w.-]*"


BUCKET_URI = rf"^{_BUCKET}(/[^\s?#]*)?$"
DATA_URI = (
    rf"^({_BUCKET}/[^\s?#]+|{_CLAIM}/[^\s?#]+|{_CONFIG_MAP}"
    rf"|hf://datasets/{_HUB_ID}/{_HUB_ID}(@[\w.%-]+)?(/[^\s?#]+)?)$"
)
MODEL_NAME = rf"^({_BUCKET}/[^\s?#]+|{_CLAIM}(/[^\s?#]+)?|{_HUB_ID}(/{_HUB_ID})?)$"
