"""What names of Kubernetes' objects look like. All patterns of the API mean the same to Go, Rust and Python, which do
not agree on what a blank or a letter is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}([.]{LABEL})*"
KEY = r"\.?[-_A-Za-z0-9][-._A-Za-z0-9]*"

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{SUBDOMAIN}$")]
"""Name of an object."""
KeyName = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^{KEY}$")]
"""Key in a Secret or ConfigMap, which becomes the name of a file."""
