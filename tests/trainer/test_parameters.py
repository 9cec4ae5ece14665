"""Every parameter of from_pretrained and get_peft_model that a user can set, from a LoraFineTune as it is applied to
its effect on SmolLM2's real weights."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lora_operator.api.lorafinetuneclass import LoraFineTuneClassSpec
from lora_operator.workloads.resolved import resolve
from lora_trainer.contract.run import RunFile
from lora_trainer.model import load_arguments

from tests.builders import CLASS_NAME, a_run, class_spec
from tests.support.demo_assets import DemoAssets

HIDDEN, INTERMEDIATE, LAYERS, KEYS = 576, 1536, 30, 192
"""SmolLM2-135M: widths of the model and of its keys and values."""
ATTENTION = {"q_proj": HIDDEN + HIDDEN, "k_proj": HIDDEN + KEYS, "v_proj": HIDDEN + KEYS, "o_proj": HIDDEN + HIDDEN}
MLP = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), HIDDEN + INTERMEDIATE)
WIDTHS = ATTENTION | MLP
"""Inputs plus outputs of each linear layer: an adapter of rank r has r times as many parameters."""

Facts = Mapping[str, Any]

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "r": {"lora": {"r": 4}},
    "target modules": {"lora": {"targetModules": ["q_proj", "down_proj"]}},
    "alpha": {"lora": {"r": 8, "loraAlpha": 32}},
    "rslora": {"lora": {"r": 16, "loraAlpha": 32, "useRslora": True}},
    "dropout": {"lora": {"loraDropout": 0.25}},
    "another seed": {"training": {"seed": 1}},
    "the same seed": {"training": {"seed": 3407}},
    "length": {"model": {"maxSeqLength": 640}},
    "recomputed": {"lora": {"useGradientCheckpointing": "Enabled"}},
    "kept": {"lora": {"useGradientCheckpointing": "Disabled"}},
    "16 bit": {"model": {"quantization": "None", "dtype": "bfloat16"}},
    "bias none": {"model": {"quantization": "None", "dtype": "bfloat16"}},
    "bias lora_only": {
        "model": {"quantization": "None", "dtype": "bfloat16"},
        "lora": {"bias": "lora_only", "targetModules": ["q_proj"]},
    },
    "bias all": {
        "model": {"quantization": "None", "dtype": "bfloat16"},
        "lora": {"bias": "all", "targetModules": ["q_proj"]},
    },
}


def resolved(edits: Mapping[str, Mapping[str, Any]], *, kind: str = "cpu") -> RunFile:
    """The run file that the operator makes of a LoraFineTune with these fields."""
    model = {"name": "s3://team-a/models/smollm2"} | dict(edits.get("model", {}))
    others: dict[str, Any] = {block: dict(values) for block, values in edits.items() if block != "model"}
    parsed = LoraFineTuneClassSpec.model_validate(class_spec(accelerator={kind: {"memory": "80Gi"}}))
    return resolve(a_run(model=model, **others), class_name=CLASS_NAME, class_spec=parsed).run_file


@pytest.fixture(scope="module")
def facts(assets: DemoAssets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Facts]:
    folder = tmp_path_factory.mktemp("facts")
    runs, found = folder / "runs.json", folder / "facts.json"
    runs.write_text(json.dumps({name: resolved(edits).wire() for name, edits in CASES.items()}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.adapter_facts", runs, assets.model, found],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(found.read_text())


def parameters(r: int, *modules: str) -> int:
    return LAYERS * r * sum(WIDTHS[module] for module in modules)


EFFECTS: list[tuple[str, str, Any]] = [
    ("defaults", "modules", sorted(WIDTHS)),
    ("defaults", "shape", [16, HIDDEN]),
    ("defaults", "trainable", parameters(16, *WIDTHS)),
    ("defaults", "scaling", 1.0),
    ("defaults", "dropout", 0.0),
    ("defaults", "linear", "Linear4bit"),
    ("defaults", "weight_dtype", "torch.uint8"),
    ("defaults", "head", "Linear"),
    ("defaults", "max_seq_length", 2048),
    ("defaults", "checkpointing", False),
    ("r", "shape", [4, HIDDEN]),
    ("r", "trainable", parameters(4, *WIDTHS)),
    ("r", "scaling", 1.0),
    ("target modules", "modules", ["down_proj", "q_proj"]),
    ("target modules", "trainable", parameters(16, "q_proj", "down_proj")),
    ("alpha", "scaling", 4.0),
    ("rslora", "scaling", 8.0),
    ("dropout", "dropout", 0.25),
    ("length", "max_seq_length", 640),
    ("length", "tokenizer_length", 640),
    ("recomputed", "checkpointing", True),
    ("kept", "checkpointing", False),
    ("16 bit", "linear", "Linear"),
    ("16 bit", "weight_dtype", "torch.bfloat16"),
    ("16 bit", "compute_dtype", "torch.bfloat16"),
    ("16 bit", "trainable", parameters(16, *WIDTHS)),
    ("bias none", "bias_count", 0),
    ("bias lora_only", "bias_count", LAYERS),
    ("bias lora_only", "trained_biases", ["base_layer"]),
    ("bias all", "bias_count", 4 * LAYERS),
]


@pytest.mark.parametrize(("case", "fact", "expected"), EFFECTS, ids=[f"{case}: {fact}" for case, fact, _ in EFFECTS])
def test_effect(facts: dict[str, Facts], case: str, fact: str, expected: Any) -> None:
    assert facts[case][fact] == expected


def test_the_seed_decides_the_first_weights(facts: dict[str, Facts]) -> None:
    weights = {case: facts[case]["seen_weights"] for case in ("defaults", "the same seed", "another seed")}
    assert weights["defaults"] == weights["the same seed"]
    assert weights["defaults"] != weights["another seed"]


def test_every_field_has_a_case() -> None:
    """A field that is added to the spec must be tried here too."""
    fields = {name for block in ("model", "lora") for name in dict(resolved({}).wire())[block]}
    tried = {name for edits in CASES.values() for block in ("model", "lora") for name in edits.get(block, {})}
    elsewhere = {"name", "quantization"} | {"revision", "loftqConfig"}
    assert fields <= tried | elsewhere


# --- what needs a GPU: the arguments, against the signatures of the GPU's own loader ---------------------------------


def gpu_signature(module: str, owner: str, function: str) -> set[str]:
    """Parameters of a function of Unsloth's GPU code, which does not import on a CPU: read from its source."""
    spec = importlib.util.find_spec("unsloth")
    assert spec
    assert spec.origin
    tree = ast.parse((Path(spec.origin).parent / "models" / module).read_text())
    (found,) = [
        node
        for parent in tree.body
        if isinstance(parent, ast.ClassDef) and parent.name == owner
        for node in parent.body
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    return {argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)}


def test_arguments_of_fast_inference_are_known_to_the_gpu_loader() -> None:
    rewards = [{"length": {"target": 9}}]
    edits = {"lora": {"r": 24}, "training": {"method": "GRPO", "grpo": {"rewards": rewards, "fastInference": True}}}
    arguments = load_arguments(resolved(edits, kind="gpu"), sequence_tokens=2048)
    assert arguments["fast_inference"] is True
    assert arguments["max_lora_rank"] == 24
    assert arguments["gpu_memory_utilization"] == 0.5
    known = gpu_signature("loader.py", "FastLanguageModel", "from_pretrained")
    # The rest goes through **kwargs to transformers.
    assert set(arguments) - known == {"local_files_only"}


def test_limits_of_fast_inference_are_those_of_the_user() -> None:
    grpo = {
        "rewards": [{"length": {"target": 9}}],
        "fastInference": True,
        "maxLoraRank": 64,
        "gpuMemoryUtilization": 0.7,
    }
    arguments = load_arguments(
        resolved({"training": {"method": "GRPO", "grpo": grpo}}, kind="gpu"), sequence_tokens=2048
    )
    assert (arguments["max_lora_rank"], arguments["gpu_memory_utilization"]) == (64, 0.7)


def test_arguments_of_the_adapter_are_known_to_the_gpu_code() -> None:
    known = gpu_signature("llama.py", "FastLlamaModel", "get_peft_model")
    asked = {"r", "target_modules", "lora_alpha", "lora_dropout", "bias", "use_gradient_checkpointing", "random_state"}
    asked |= {"max_seq_length", "use_rslora", "init_lora_weights", "loftq_config", "checkpoint_skip_layers"}
    assert asked <= known
