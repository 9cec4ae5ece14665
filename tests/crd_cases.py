"""What the CRDs accept and refuse, as data: replayed against the generated schemas and against a real API server."""

from __future__ import annotations

from tests.class_cases import CLASS_CASES
from tests.run_cases import RUN_CASES

CASES = (*RUN_CASES, *CLASS_CASES)
