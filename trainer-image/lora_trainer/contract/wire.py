"""Base class of all models that are written as JSON: frozen, camelCase, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class WireModel(BaseModel):
    """Base of every model that crosses a process border. Field names are camelCase outside, snake_case inside."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict:
        """The JSON form, without the fields that are unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
