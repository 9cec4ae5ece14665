"""Where pods of a class run beside node selectors and taints: affinities and topology spread, as in a pod."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from lora_trainer.contract.spec.cel import rule, rules
from lora_trainer.contract.wire import WireModel
from pydantic import ConfigDict, Field

from lora_operator.api.namespace_selector import LabelExpression, LabelKey, LabelValue

Weight = Annotated[int, Field(ge=1, le=100)]
ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


class NodeOperator(StrEnum):
    """How a label of a node is compared, as in Kubernetes."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GREATER = "Gt"
    LESS = "Lt"


class NodeExpression(WireModel):
    """One requirement on a label of the node."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(self.operator in ['Exists', 'DoesNotExist']) != has(self.values)"
                " && (!(self.operator in ['Gt', 'Lt']) || self.values.size() == 1)",
                "Operators In and NotIn take values, Gt and Lt take one; Exists and DoesNotExist take none.",
            )
        )
    )

    key: LabelKey
    """Key of the label."""
    operator: NodeOperator
    """How the label is compared. NotIn also matches nodes without the label. Gt and Lt compare whole numbers."""
    values: Annotated[tuple[LabelValue, ...], Field(min_length=1, max_length=64, json_schema_extra=ATOMIC)] | None = (
        None
    )
    """Values for In and NotIn, and the number for Gt and Lt."""


class NodeTerm(WireModel):
    """Requirements on a node, all of which must be met."""

    match_expressions: Annotated[
        tuple[NodeExpression, ...], Field(min_length=1, max_length=8, json_schema_extra=ATOMIC)
    ]
    """Requirements on labels of the node."""


class NodeTerms(WireModel):
    """Terms, one of which a node must meet."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=8, json_schema_extra=ATOMIC)]
    """The terms."""


class PreferredNode(WireModel):
    """A preference for nodes."""

    weight: Weight
    """How much it counts beside other preferences."""
    preference: NodeTerm
    """The preferred nodes."""


class NodeAffinity(WireModel):
    """Nodes that the pods must or should run on."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """What a node must meet."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNode, ...], Field(max_length=8, json_schema_extra=ATOMIC)
    ] = ()
    """What a node should meet."""


class PodSelector(WireModel):
    """A label selector for pods of the run's namespace. All requirements must be met; {} selects every pod."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = None
    """Labels, with their values, that the pods must have."""
    match_expressions: Annotated[tuple[LabelExpression, ...], Field(max_length=8, json_schema_extra=ATOMIC)] | None = (
        None
    )
    """Requirements on labels of the pods."""


MatchLabelKeys = Annotated[tuple[LabelKey, ...], Field(max_length=4, json_schema_extra=ATOMIC)]


class PodTerm(WireModel):
    """Other pods, and how near they are."""

    label_selector: PodSelector
    """The other pods."""
    topology_key: LabelKey
    """Label of nodes whose value is the same where pods are near each other (kubernetes.io/hostname)."""
    match_label_keys: MatchLabelKeys = ()
    """Labels that must have the pod's own value, too: batch.kubernetes.io/job-name means pods of the same attempt."""


class PreferredPods(WireModel):
    """A preference for being near other pods, or far from them."""

    weight: Weight
    """How much it counts beside other preferences."""
    pod_affinity_term: PodTerm
    """The other pods."""


class PodAffinity(WireModel):
    """Pods that the pods must or should run near to, or far from."""

    required_during_scheduling_ignored_during_execution: Annotated[
        tuple[PodTerm, ...], Field(max_length=8, json_schema_extra=ATOMIC)
    ] = ()
    """What must hold."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredPods, ...], Field(max_length=8, json_schema_extra=ATOMIC)
    ] = ()
    """What should hold."""


class Affinity(WireModel):
    """Affinities of the pods."""

    node_affinity: NodeAffinity | None = None
    """Nodes that the pods must or should run on."""
    pod_affinity: PodAffinity | None = None
    """Pods that the pods must or should run near to."""
    pod_anti_affinity: PodAffinity | None = None
    """Pods that the pods must or should run far from."""


class SpreadConstraint(WireModel):
    """How evenly pods are spread over a topology."""

    max_skew: Annotated[int, Field(ge=1, le=100)]
    """By how many pods two domains may differ."""
    topology_key: LabelKey
    """Label of nodes; nodes with the same value are one domain."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """Whether a pod waits rather than make the spread uneven."""
    label_selector: PodSelector
    """The pods that are counted."""
    match_label_keys: MatchLabelKeys = ()
    """Labels that must have the pod's own value, too: batch.kubernetes.io/job-name means pods of the same attempt."""
