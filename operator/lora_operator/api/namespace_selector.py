"""The namespaces that may use a class, selected by labels. The operator and the admission policy share the rules."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.spec.names import SUBDOMAIN
from lora_trainer.contract.wire import WireModel
from pydantic import ConfigDict, Field

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=rf"^({SUBDOMAIN}/)?{_NAME}$")]
LabelValue = Annotated[str, Field(max_length=63, pattern=rf"^({_NAME})?$")]


class Operator(StrEnum):
    """How a label is compared, as in Kubernetes."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelExpression(WireModel):
    """One requirement on a label."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(self.operator in ['In', 'NotIn']) == has(self.values)",
                "Operators In and NotIn take values; Exists and DoesNotExist take none.",
            )
        )
    )

    key: LabelKey
    """Key of the label."""
    operator: Operator
    """How the label is compared. NotIn also matches namespaces without the label."""
    values: Annotated[tuple[LabelValue, ...], Field(min_length=1, max_length=64)] | None = None
    """Values for In and NotIn."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the requirement."""
        listed = self.key in labels and labels[self.key] in (self.values or ())
        match self.operator:
            case Operator.IN:
                return listed
            case Operator.NOT_IN:
                return not listed
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels


class NamespaceSelector(WireModel):
    """A label selector for namespaces. All requirements must be met; {} selects every namespace."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = None
    """Labels, with their values, that the namespace must have."""
    match_expressions: Annotated[tuple[LabelExpression, ...], Field(max_length=16)] | None = None
    """Requirements on labels of the namespace."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels is selected."""
        equal = all(labels.get(key) == value for key, value in (self.match_labels or {}).items())
        return equal and all(each.matches(labels) for each in self.match_expressions or ())


SENTENCE = (
    "LoraFineTuneClass {name} is not offered to namespace {namespace} (its spec.namespaceSelector). Choose another "
    "spec.className, or ask the platform team to label the namespace."
)
LISTED = "(each.key in variables.labels && variables.labels[each.key] in each.values)"
SELECTED = (
    "(!has(params.spec.namespaceSelector.matchLabels) || params.spec.namespaceSelector.matchLabels.all(key,\n"
    "  key in variables.labels && variables.labels[key] == params.spec.namespaceSelector.matchLabels[key]))\n"
    "&& (!has(params.spec.namespaceSelector.matchExpressions)"
    " || params.spec.namespaceSelector.matchExpressions.all(each,\n"
    f"  each.operator == 'In' ? {LISTED}\n"
    f"  : each.operator == 'NotIn' ? !{LISTED}\n"
    "  : (each.operator == 'Exists') == (each.key in variables.labels)))"
)
"""`NamespaceSelector.matches` in CEL, of `params` and `variables.labels`."""
