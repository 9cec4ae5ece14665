"""What URIs and names of models look like, as patterns."""

from __future__ import annotations

from lora_trainer.contract.spec.cel import rule

BLANK = r"\x00-\x20\x7f"
"""What no address holds, for a class of characters: blanks and control characters of ASCII."""
_REST = rf"[^{BLANK}?#]"
_PATH_START = rf"[^{BLANK}?#/]"
_BUCKET = r"(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_HUB_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


BUCKET_URI = rf"^{_BUCKET}(/{_REST}*)?$"
DATA_URI = rf"^({_BUCKET}/{_REST}+|hf://datasets/{_HUB_ID}/{_HUB_ID}(@[A-Za-z0-9_.%-]+)?(/{_REST}+)?)$"
MODEL_NAME = rf"^({_BUCKET}/{_REST}+|{_HUB_ID}(/{_HUB_ID})?)$"
CLAIM_PATH = rf"^{_PATH_START}{_REST}*$"


def stays_in_its_folder(field: str) -> dict[str, str]:
    """The rule that an address goes no way back: it would lead to another folder than a class compares."""
    return rule(
        f"!has(self.{field}) || !self.{field}.matches('(^|/)[.][.]?(/|$)')",
        f"{field} has '.' or '..' as a part of its path. Write the path without them.",
        field=field,
    )
