"""README.md of a published adapter, in the form that model hubs and people read. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lora_trainer.contract.layout import EVALUATION, LOSS_CURVE, RUN_SHAPE, TRAINING_LOG
from lora_trainer.contract.outcome import DatasetFigures, Evaluation, Figures, PrepareResult
from lora_trainer.contract.run import RunFile
from lora_trainer.contract.spec.training import Method
from lora_trainer.evaluation.comparison import EvaluationFile

SHOWN_SAMPLES = 3


def model_card(
    run: RunFile,
    *,
    prepared: PrepareResult,
    steps: int,
    evaluation: EvaluationFile,
    versions: Mapping[str, str],
    signing_key: str | None = None,
) -> str:
    """The card of an adapter that was trained for `steps` steps, with figures, curve, samples and everything that is
    needed to make the adapter again."""
    data = prepared.dataset
    return "\n".join(
        [
            *_header(run),
            f"# LoRA adapter of {run.model.address}",
            "",
            _data(run, data),
            "",
            *_figures(evaluation.figures, of="held-out rows"),
            "",
            *_sets(evaluation.figures),
            f"![Loss by step]({LOSS_CURVE})",
            "",
            *_samples(evaluation),
            "## Where it comes from",
            *_list({"base model revision": f"`{prepared.model.revision}`", "data digest": f"`{data.digest}`"}),
            *_list({"run digest": f"`{prepared.run_digest}` (sha256 of `{RUN_SHAPE}`, which has every setting)"}),
            *(_list({"signed by": f"Ed25519 key `{signing_key}`"}) if signing_key else []),
            "",
            *_template_variables(run),
            "## Settings",
            *_list(_settings(run, prepared, steps)),
            "",
            "## Versions",
            *(f"- {name} {version}" for name, version in versions.items()),
            "",
            f"All prompts with the answers of base and adapter are in `{EVALUATION}`, the loss of every step is in",
            f"`{TRAINING_LOG}`.",
            "",
        ]
    )


def _data(run: RunFile, data: DatasetFigures) -> str:
    if run.training.method is Method.GRPO:
        return f"Trained on its own answers to {data.kept} prompts ({data.tokens} tokens)."
    return f"Trained on {data.kept} rows ({data.tokens} tokens, {data.trained_token_share:.0%} of them in the loss)."


def _header(run: RunFile) -> list[str]:
    hub = run.model.on_hub
    lines = ["library_name: peft", "pipeline_tag: text-generation"]
    lines += [f"tags: [lora, {run.training.method.lower()}, unsloth]"]
    return ["---", *lines, *([f"base_model: {run.model.address}"] if hub else []), "---"]


def _sets(figures: Evaluation) -> list[str]:
    return [line for each in figures.sets or () for line in (*_figures(each, of=f"rows of {each.name}"), "")]


def _figures(figures: Figures, *, of: str) -> list[str]:
    rows = [
        ("loss per token", figures.base_loss, figures.loss),
        ("token accuracy", figures.base_token_accuracy, figures.token_accuracy),
        ("mean reward", figures.base_reward, figures.reward),
        (f"exact match of {figures.answers} answers", figures.base_exact_match, figures.exact_match),
    ]
    measured = [(name, base, adapter) for name, base, adapter in rows if base is not None and adapter is not None]
    table = [f"| {name} | {base:.4f} | {adapter:.4f} |" for name, base, adapter in measured]
    preferred = {
        "pairs with the chosen answer preferred": figures.reward_accuracy,
        "reward margin": figures.reward_margin,
    }
    table += [f"| {name} | | {value:.4f} |" for name, value in preferred.items() if value is not None]
    return [f"| {figures.rows} {of} | base | adapter |", "|---|---|---|", *table]


def _samples(evaluation: EvaluationFile) -> list[str]:
    lines = [
        line
        for sample in evaluation.samples[:SHOWN_SAMPLES]
        for line in _sample(prompt=sample.prompt, reference=sample.reference, base=sample.base, adapter=sample.adapter)
    ]
    lines += [
        line
        for asked in evaluation.prompts
        for line in _sample(system=asked.system, prompt=asked.prompt, base=asked.base, adapter=asked.adapter)
    ]
    return ["## Samples", *lines] if lines else []


def _sample(**said: str | None) -> list[str]:
    parts = ((name, text) for name, text in said.items() if text is not None)
    return [line for name, text in parts for line in (f"{name}:", *_fenced(text), "")] + ["---", ""]


def _fenced(text: str) -> Sequence[str]:
    """The text in a fence that is longer than any fence in it."""
    fence = "~~~"
    while fence in text:
        fence += "~"
    return (fence, text, fence)


def _template_variables(run: RunFile) -> list[str]:
    """How the chat template must be rendered to ask as the rows did."""
    if not (kwargs := run.dataset.chat_template_kwargs):
        return []
    sentence = "The rows were rendered with these variables of the chat template; ask with the same:"
    return ["## Chat template", sentence, "", *_fenced(json.dumps({"chat_template_kwargs": kwargs})), ""]


def _settings(run: RunFile, prepared: PrepareResult, steps: int) -> dict[str, object]:
    chosen = prepared.chosen
    return {
        "rank / alpha / dropout": f"{run.lora.r} / {run.lora.alpha} / {run.lora.lora_dropout}",
        "target modules": ", ".join(run.lora.target_modules),
        "base precision": "4-bit NF4" if run.model.in_4bit else chosen.dtype,
        "optimizer steps": f"{steps} of {chosen.max_steps}",
        "effective batch (rows)": chosen.per_device_train_batch_size
        * chosen.gradient_accumulation_steps
        * run.parallelism.processes,
        "learning rate": f"{chosen.learning_rate:g} ({run.training.lr_scheduler_type})",
        "longest row (tokens)": run.model.max_seq_length,
        "seed": run.training.seed,
    }


def _list(values: Mapping[str, object]) -> list[str]:
    return [f"- {name}: {value}" for name, value in values.items()]
