"""Reads objects of APIs that the operator can do without. One that is not what its API promises is left out."""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

log = logging.getLogger(__name__)


def readable(model: type[M], body: dict[str, Any]) -> M | None:
    """The object, or None."""
    try:
        return model.model_validate(body)
    except ValidationError as problem:
        wrong = problem.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, wrong["loc"]))
        log.debug("unreadable object", extra={"object": model.__name__, "field": field, "error": wrong["msg"]})
        return None
