"""Rules between the fields of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.cel import given, rule, value
from lora_trainer.contract.spec.dataset import DatasetSpec
from lora_trainer.contract.spec.lora import LoraSpec
from lora_trainer.contract.spec.model import Quantization
from lora_trainer.contract.spec.parallelism import ParallelismSpec
from lora_trainer.contract.spec.training import DpoSpec, GrpoSpec, Method, TrainingSpec


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """One rule between fields, and what to say where it does not hold."""

    cel: str
    """The rule as the API server asks it, of the spec as its user wrote it."""
    message: str
    """What is wrong, and what to do about it."""
    field: str
    """Block of spec that the API server names."""
    holds: Callable[[RunFile], bool] | None = None
    """The same of a resolved run, where a class's or the product's default may break the rule."""

    @property
    def rule(self) -> dict[str, str]:
        """The rule for the CRD."""
        return rule(self.cel, self.message, field=self.field)


def _rows_hold_prompt_and_answer(run: RunFile) -> bool:
    grpo = run.training.grpo
    return grpo is None or grpo.max_prompt_length + grpo.max_completion_length <= run.model.max_seq_length


def _vllm_has_room_for_the_rank(run: RunFile) -> bool:
    grpo = run.training.grpo
    return grpo is None or grpo.max_lora_rank is None or grpo.max_lora_rank >= run.lora.r


def _vllm_takes_the_biases(run: RunFile) -> bool:
    grpo = run.training.grpo
    return grpo is None or not grpo.fast_inference or run.lora.bias == "none"


def _loftq_has_16_bits(run: RunFile) -> bool:
    return run.lora.loftq_config is None or run.model.quantization is Quantization.NONE


METHOD = value("training.method", TrainingSpec().method)
GRPO = given("training.grpo")
GPUS = value("parallelism.gpus", ParallelismSpec().gpus)
NODES = value("parallelism.nodes", ParallelismSpec().nodes)
GATES = given("evaluation.gates")
LONGEST_PROMPT, LONGEST_ANSWER = (
    GrpoSpec.model_fields[name].default for name in ("max_prompt_length", "max_completion_length")
)
FAST_INFERENCE = value("training.grpo.fastInference", False)


def _only_for(method: Method) -> Conflict:
    block = method.lower()
    return Conflict(
        cel=f"!({given(f'training.{block}')}) || {METHOD} == '{method}'",
        message=f"training.{block} is for method {method} only: remove it or set training.method to {method}.",
        field="training",
    )


GRPO_CONFLICTS = (
    Conflict(
        cel=f"{METHOD} != 'GRPO' || !({given('training.evalSteps')} || {given('training.earlyStopping')})",
        message="GRPO has no held-out loss: remove training.evalSteps and training.earlyStopping.",
        field="training",
    ),
    Conflict(
        cel=f"{METHOD} != 'GRPO' || ({GPUS} == 1 && {NODES} == 1)",
        message="GRPO trains on one GPU: set parallelism.gpus and parallelism.nodes to 1.",
        field="parallelism",
    ),
    Conflict(
        cel=f"{METHOD} != 'GRPO' || {GRPO}",
        message="Method GRPO needs training.grpo.rewards: add at least one reward.",
        field="training",
    ),
    Conflict(
        cel=f"!({GRPO}) || !({given('model.maxSeqLength')}) || {value('training.grpo.maxPromptLength', LONGEST_PROMPT)}"
        f" + {value('training.grpo.maxCompletionLength', LONGEST_ANSWER)} <= self.model.maxSeqLength",
        message="training.grpo.maxPromptLength + maxCompletionLength is more than model.maxSeqLength: lower them or "
        "raise it.",
        field="training",
        holds=_rows_hold_prompt_and_answer,
    ),
    Conflict(
        cel=f"!({GRPO}) || {value('dataset.overlength', DatasetSpec().overlength)} != 'Truncate'",
        message="dataset.overlength: Truncate is not for GRPO, because a cut prompt asks something else: set Drop or "
        "Fail.",
        field="dataset",
    ),
    Conflict(
        cel=f"{FAST_INFERENCE} || !({given('training.grpo.maxLoraRank')}"
        f" || {given('training.grpo.gpuMemoryUtilization')})",
        message="training.grpo.maxLoraRank and gpuMemoryUtilization need fastInference: true: set it or remove them.",
        field="training",
    ),
    Conflict(
        cel=f"!({given('training.grpo.maxLoraRank')} && {given('lora.r')})"
        " || self.training.grpo.maxLoraRank >= self.lora.r",
        message="training.grpo.maxLoraRank is less than lora.r: raise it or remove it.",
        field="training",
        holds=_vllm_has_room_for_the_rank,
    ),
    Conflict(
        cel=f"!{FAST_INFERENCE} || {value('lora.bias', LoraSpec().bias)} == 'none'",
        message="training.grpo.fastInference does not support an adapter with bias: set lora.bias to none.",
        field="lora",
        holds=_vllm_takes_the_biases,
    ),
    Conflict(
        cel=f"!({GRPO} && {GATES}) || self.evaluation.gates.all(gate, gate.metric == 'Reward')",
        message="GRPO has no held-out loss: use gates on metric Reward only.",
        field="evaluation",
    ),
    Conflict(
        cel=f"{GRPO} || !({GATES}) || self.evaluation.gates.all(gate, gate.metric != 'Reward')",
        message="A gate on metric Reward is for method GRPO only: remove it.",
        field="evaluation",
    ),
    Conflict(
        cel=f"!({GRPO}) || !({given('evaluation.exactMatch')})",
        message="evaluation.exactMatch needs references, which prompts of GRPO lack: use the reward exactAnswer.",
        field="evaluation",
    ),
)

CONFLICTS = (
    Conflict(
        cel="!has(self.model.revision) || (has(self.model.name) && !self.model.name.contains('://'))",
        message="model.revision is for Hugging Face models; a folder has no revisions: remove it.",
        field="model",
    ),
    Conflict(
        cel=f"!({given('training.maxSteps')} && {given('training.numTrainEpochs')})",
        message="training takes maxSteps or numTrainEpochs, not both: remove one.",
        field="training",
    ),
    Conflict(
        cel=f"!({GATES}) || has(self.evaluation.exactMatch)"
        " || self.evaluation.gates.all(gate, gate.metric != 'ExactMatch')",
        message="A gate on metric ExactMatch needs evaluation.exactMatch: set it to {rows: 32}, for example.",
        field="evaluation",
    ),
    Conflict(
        cel=f"!({given('evaluation.systemPrompt')}) || ({given('evaluation.prompts')}"
        " && self.evaluation.prompts.size() > 0)",
        message="evaluation.systemPrompt leads evaluation.prompts, of which there are none: add prompts or remove it.",
        field="evaluation",
    ),
    Conflict(
        cel=f"!({given('lora.loftqConfig')} && {given('model.quantization')}) || self.model.quantization == 'None'",
        message="lora.loftqConfig needs a base model in 16 bits: set model.quantization: None or remove loftqConfig.",
        field="lora",
        holds=_loftq_has_16_bits,
    ),
    *(_only_for(method) for method in Method),
    Conflict(
        cel=f"!{value('training.packing', False)} || {METHOD} == 'SFT'",
        message="training.packing is for method SFT only: remove it.",
        field="training",
    ),
    Conflict(
        cel=f"!({given('training.dpo.labelSmoothing')}) || self.training.dpo.labelSmoothing == 0.0"
        f" || {value('training.dpo.lossType', DpoSpec().loss_type)} == 'robust'",
        message="training.dpo.labelSmoothing has an effect only with lossType robust: set lossType to robust or "
        "remove it.",
        field="training",
    ),
    Conflict(
        cel=f"!has(self.dataset.format) || ((self.dataset.format == 'Preference') == ({METHOD} == 'DPO')"
        f" && (self.dataset.format == 'Prompt') == ({METHOD} == 'GRPO'))",
        message="dataset.format does not match training.method: DPO reads Preference rows, GRPO Prompt rows, SFT all "
        "others.",
        field="dataset",
    ),
    *GRPO_CONFLICTS,
)
"""What must hold between the fields of a run. The API server asks it of what the user wrote; a field that a class may
set is judged there only where it is given. What a default can break the operator asks again, of the resolved run."""


def conflicts(run: RunFile) -> tuple[str, ...]:
    """A sentence for each rule that a default has broken. `run` has all defaults in it."""
    return tuple(conflict.message for conflict in CONFLICTS if conflict.holds is not None and not conflict.holds(run))
