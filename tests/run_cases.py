"""What the CRD of LoraFineTune accepts and refuses."""

from __future__ import annotations

from typing import Any

from tests.builders import model_at, rows_at
from tests.crd_case import CrdCase, dotted


def _created(name: str, words: str = "", **start: Any) -> CrdCase:
    return CrdCase(name=name, start=dotted(start), words=words)


def _changed(name: str, change: dict[str, Any], words: str = "", **start: Any) -> CrdCase:
    return CrdCase(name=name, start=dotted(start), change=change, words=words)


HUB_ROWS = {"uri": "hf://datasets/owner/name"}
SOURCES = [
    {"uri": "s3://bucket/a.jsonl", "weight": 2},
    {"claimRef": {"name": "claim", "path": "b.csv"}, "format": "Text"},
]

FURTHER = {"name": "sums", "uri": "s3://bucket/sums.jsonl"}

RIGHT = {"metric": "ExactMatch", "min": 0.5}
REWARDED = {"metric": "Reward", "min": 0.5}
GRPO: dict[str, Any] = {"rewards": [{"numericAnswer": {}}]}
CODE = rows_at("configmap://judges/judge.py")

GRPO_CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("rewards", "", {}),
    ("evaluations during training", "GRPO has no held-out loss", {"spec.training.evalSteps": 5}),
    ("early stopping", "GRPO has no held-out loss", {"spec.training.earlyStopping": {}}),
    ("two GPUs", "GRPO trains on one GPU", {"spec.parallelism.gpus": 2}),
    ("two nodes", "GRPO trains on one GPU", {"spec.parallelism.nodes": 2}),
    ("prompt rows", "", {"spec.dataset.format": "Prompt"}),
    ("chats for GRPO", "does not match", {"spec.dataset.format": "Messages"}),
    ("no rewards", "rewards", {"spec.training.grpo.rewards": []}),
    ("nine rewards", "rewards", {"spec.training.grpo.rewards": [{"length": {"target": 9}}] * 9}),
    ("a reward of no kind", "exactly one of", {"spec.training.grpo.rewards": [{"weight": 2}]}),
    (
        "a reward of two kinds",
        "exactly one of",
        {"spec.training.grpo.rewards": [{"length": {"target": 9}, "exactAnswer": {}}]},
    ),
    ("a function", "", {"spec.training.grpo.rewards": [{"python": CODE}, {"regex": {"pattern": "a"}}]}),
    (
        "a function of no name",
        "function",
        {"spec.training.grpo.rewards": [{"python": CODE | {"function": "my reward"}}]},
    ),
    (
        "a key with a path",
        "key",
        {"spec.training.grpo.rewards": [{"python": rows_at("configmap://judges/../x")}]},
    ),
    ("a schema", "", {"spec.training.grpo.rewards": [{"jsonSchema": {"schema": "{}"}}]}),
    ("one answer a prompt", "numGenerations", {"spec.training.grpo.numGenerations": 1}),
    (
        "answers longer than rows",
        "is more than model.maxSeqLength",
        {"spec.training.grpo.maxCompletionLength": 1537, "spec.model.maxSeqLength": 2048},
    ),
    (
        "answers as long as rows",
        "",
        {"spec.training.grpo.maxCompletionLength": 1536, "spec.model.maxSeqLength": 2048},
    ),
    ("cut prompts", "is not for GRPO", {"spec.dataset.overlength": "Truncate"}),
    ("packed answers", "packing is for method SFT only", {"spec.training.packing": True}),
    ("vLLM", "", {"spec.training.grpo.fastInference": True, "spec.training.grpo.gpuMemoryUtilization": 0.6}),
    ("memory for no vLLM", "need fastInference", {"spec.training.grpo.gpuMemoryUtilization": 0.6}),
    ("a rank for no vLLM", "need fastInference", {"spec.training.grpo.maxLoraRank": 64}),
    (
        "a rank that is too low",
        "is less than lora.r",
        {"spec.training.grpo.fastInference": True, "spec.training.grpo.maxLoraRank": 8, "spec.lora.r": 16},
    ),
    (
        "vLLM and bias",
        "does not support an adapter with bias",
        {"spec.training.grpo.fastInference": True, "spec.lora.bias": "all"},
    ),
    ("a gate on the reward", "", {"spec.evaluation.gates": [REWARDED]}),
    ("a gate on a loss", "use gates on metric Reward", {"spec.evaluation.gates": [{"metric": "Loss", "max": 0.5}]}),
    ("exact match of prompts", "needs references", {"spec.evaluation.exactMatch": {}}),
)


def _grpo(name: str, words: str, **edits: Any) -> CrdCase:
    start = {"spec.training.method": "GRPO", "spec.training.grpo": GRPO}
    return CrdCase(name=f"GRPO: {name}", start=start | edits, words=words)


RUN_CASES: tuple[CrdCase, ...] = (
    _created("the smallest run"),
    # shapes
    _created("no model", "model", spec__model=None),
    _created("no dataset", "dataset", spec__dataset=None),
    _created("no output", "output", spec__output=None),
    _created("r as a word", "spec.lora.r", spec__lora__r="many"),
    _created("r of nought", "spec.lora.r", spec__lora__r=0),
    _created("r of 512", spec__lora__r=512),
    _created("a dropout of one", "spec.lora.loraDropout", spec__lora__loraDropout=1),
    _created("a dropout of nought", spec__lora__loraDropout=0),
    _created("a learning rate of nought", "spec.training.learningRate", spec__training__learningRate=0),
    _created("a learning rate of one", spec__training__learningRate=1),
    _created("no target modules", "spec.lora.targetModules", spec__lora__targetModules=[]),
    _created("an unknown method", "spec.training.method", spec__training__method="PPO"),
    _created("an unknown format", "spec.dataset.format", spec__dataset__format="xml"),
    _created("more bad rows than rows", "spec.dataset.maxBadFraction", spec__dataset__maxBadFraction=1.01),
    _created("rows in status", spec__dataset__samplesInStatus=3),
    _created("many rows in status", "samplesInStatus", spec__dataset__samplesInStatus=4),
    _created("half a percent of bad rows", spec__dataset__maxBadFraction=0.005),
    _created("a dataset over http", "spec.dataset.uri", spec__dataset__uri="http://x/y.jsonl"),
    _created("a dataset on a claim", spec__dataset=rows_at("pvc://claim/rows/train-*.jsonl")),
    _created("a dataset in Google's cloud", spec__dataset__uri="gs://bucket/rows.jsonl"),
    _created("a dataset in Azure's cloud", spec__dataset__uri="az://container/rows.jsonl"),
    _created("a dataset in a config map", spec__dataset=rows_at("configmap://rows/train.jsonl")),
    _created("a dataset that is a whole config map", "configMapRef", spec__dataset={"configMapRef": {"name": "rows"}}),
    _created("a claim as an address", "spec.dataset.uri", spec__dataset__uri="pvc://claim/train.jsonl"),
    *(
        _created(f"{place} that goes back", "Write the path without them", **{field: there(address)})
        for place, field, there in (
            ("rows", "spec__dataset", rows_at),
            ("one of two sources", "spec__dataset", lambda address: {"sources": [*SOURCES, rows_at(address)]}),
            ("held-out rows", "spec__evaluation__dataset", rows_at),
            ("a model", "spec__model", model_at),
            ("an output", "spec__output", rows_at),
        )
        for address in ("s3://bucket/a/../../other/x", "s3://bucket/..", "s3://bucket/./x")
    ),
    _created("rows on a claim that go back", "Write the path without them", spec__dataset=rows_at("pvc://a/b/../../c")),
    _created("a name that only begins with dots", spec__dataset=rows_at("s3://bucket/..a/...")),
    _created("a path from the root of a claim", "claimRef.path", spec__dataset=rows_at("pvc://a//x")),
    _created("a model on a claim", spec__model=rows_at("pvc://models/llama")),
    _created("a model of no place", "exactly one of name and claimRef", spec__model={}),
    _created(
        "held-out rows of two places",
        "exactly one of uri, configMapRef and claimRef",
        spec__evaluation__dataset={"uri": "s3://bucket/x.jsonl", "claimRef": {"name": "a", "path": "x"}},
    ),
    _created("a dataset on the hub", spec__dataset__uri="hf://datasets/owner/name@v1.0/data/train-*.parquet"),
    _created("a dataset on the hub without a path", spec__dataset__uri="hf://datasets/owner/name"),
    _created(
        "splits on the hub",
        spec__dataset=HUB_ROWS | {"split": "train_sft"},
        spec__evaluation__dataset=HUB_ROWS | {"split": "test"},
    ),
    _created("a split of two words", "spec.dataset.split", spec__dataset=HUB_ROWS | {"split": "train[:10%]"}),
    _created("a split in a bucket", "on the Hugging Face Hub", spec__dataset__split="train"),
    _created(
        "a split of a source in a bucket",
        "on the Hugging Face Hub",
        spec__dataset={"sources": [SOURCES[0] | {"split": "train"}]},
    ),
    _created("a model on the hub as dataset", "spec.dataset.uri", spec__dataset__uri="hf://owner/name"),
    _created("sources", spec__dataset={"sources": SOURCES}),
    _created("no sources", "spec.dataset.sources", spec__dataset={"sources": []}),
    _created("a weight of nought", "weight", spec__dataset={"sources": [SOURCES[0] | {"weight": 0}]}),
    _created("a uri and sources", "claimRef and sources", spec__dataset__sources=SOURCES),
    _created(
        "neither uri nor sources",
        "claimRef and sources",
        spec__dataset={"format": "Text"},
    ),
    _created("a named chat template", spec__dataset__chatTemplate={"name": "llama-3.1"}),
    _created("a chat template of one's own", spec__dataset__chatTemplate={"jinja": "{{ messages }}"}),
    _created(
        "a chat template of no name", "spec.dataset.chatTemplate", spec__dataset__chatTemplate={"name": "my template"}
    ),
    _created("a template of no kind", "exactly one of name and jinja", spec__dataset__chatTemplate={}),
    _created(
        "a template of two kinds",
        "exactly one of name and jinja",
        spec__dataset__chatTemplate={"name": "llama-3.1", "jinja": "{{ messages }}"},
    ),
    _created(
        "variables of the chat template",
        spec__dataset__chatTemplateKwargs={"enable_thinking": False, "budget": 1.5, "date_string": "1 May 2024"},
    ),
    _created(
        "too many variables of the chat template",
        "chatTemplateKwargs",
        spec__dataset__chatTemplateKwargs={f"name{number}": number for number in range(17)},
    ),
    _changed(
        "another variable of the chat template",
        {"spec.dataset.chatTemplateKwargs": {"enable_thinking": True}},
        "spec.dataset cannot change",
        spec__dataset__chatTemplateKwargs={"enable_thinking": False},
    ),
    _created("an output in Google's cloud", spec__output__uri="gs://bucket/out"),
    _created("a model in Azure's cloud", spec__model__name="az://container/model"),
    _created("a dataset that is a whole bucket", "spec.dataset.uri", spec__dataset__uri="s3://bucket"),
    _created("an output that is a whole bucket", spec__output__uri="s3://bucket"),
    _created("an output on a claim", "spec.output.uri", spec__output__uri="pvc://claim/x"),
    _created("a key that is a way out", "configMapRef.key", spec__dataset=rows_at("configmap://rows/..")),
    _created("a key that is hidden", spec__dataset=rows_at("configmap://rows/.train.jsonl")),
    _created("a class in capitals", "spec.className", spec__className="GPU"),
    _created("a token's Secret in capitals", "tokenSecretRef.name", spec__huggingFace__tokenSecretRef={"name": "Hub"}),
    _created(
        "a token's key with a path", "tokenSecretRef.key", spec__huggingFace__tokenSecretRef={"name": "a", "key": "/"}
    ),
    _created("rows in another script", spec__dataset__uri="s3://bucket/\u8cc7\u6599/\u3000.jsonl"),
    _created("rows with a blank", "spec.dataset.uri", spec__dataset__uri="s3://bucket/my rows.jsonl"),
    _created("a model with spaces", "spec.model.name", spec__model__name="my model"),
    _created("a deadline under a minute", "spec.maxRuntimeSeconds", spec__maxRuntimeSeconds=59),
    _created("a retry limit of 21", "spec.retryLimit", spec__retryLimit=21),
    # rules on creation
    _created("a name of 48", metadata__name="a" * 48),
    _created("a name of 49", "at most 48", metadata__name="a" * 49),
    _created("a name with a dot", "lower-case letters", metadata__name="a.b"),
    _created("a base in 16 bits", spec__model__quantization="None"),
    _created("a base in as many bits as fit", spec__model__quantization="Auto"),
    _created("a base in eight bits", "spec.model.quantization", spec__model__quantization="NF8"),
    _created("a base that is true", "spec.model.quantization", spec__model__quantization=True),
    _created("LoftQ", spec__lora__loftqConfig={}, spec__model__quantization="None"),
    _created(
        "LoftQ of a base in 4 bits",
        "needs a base model in 16 bits",
        spec__lora__loftqConfig={},
        spec__model__quantization="Auto",
    ),
    _created("a revision of a hub model", spec__model__revision="main"),
    _created(
        "a revision of a folder", "a folder has no revisions", spec__model__revision="x", spec__model__name="s3://abc/m"
    ),
    _created(
        "a revision of a claim",
        "a folder has no revisions",
        spec__model={"revision": "x", "claimRef": {"name": "c", "path": "m"}},
    ),
    _created("steps", spec__training__maxSteps=10),
    _created("epochs", spec__training__numTrainEpochs=2),
    _created("steps and epochs", "not both: remove one", spec__training__maxSteps=10, spec__training__numTrainEpochs=2),
    _created("gates", spec__evaluation__gates=[{"metric": "Loss", "max": 1.5}, {"metric": "Improvement", "min": 0.2}]),
    _created("a gate with both ends", spec__evaluation__gates=[{"metric": "TokenAccuracy", "min": 0.5, "max": 1}]),
    _created("a share below nought", "are shares", spec__evaluation__gates=[{"metric": "Improvement", "min": -0.1}]),
    _created("a share above one", "are shares", spec__evaluation__gates=[{"metric": "TokenAccuracy", "max": 1.1}]),
    _created("a gate of no end", "needs min, max or both", spec__evaluation__gates=[{"metric": "Loss"}]),
    _created("a gate on nothing", "spec.evaluation.gates", spec__evaluation__gates=[{"min": 1}]),
    _created("two gates on one figure", "uplicate", spec__evaluation__gates=[{"metric": "Loss", "max": 1}] * 2),
    _created("a prompt of one's own", spec__evaluation__prompts=["How many singers are there?"]),
    _created("an empty prompt", "prompts", spec__evaluation__prompts=[""]),
    _created("a prompt with a system message", spec__evaluation={"prompts": ["Who?"], "systemPrompt": "Be brief."}),
    _created("a prompt with no system message", spec__evaluation={"prompts": ["Who?"], "systemPrompt": ""}),
    _created("a system message of no prompt", "add prompts", spec__evaluation__systemPrompt="Be brief."),
    _created("a system message of 0 prompts", "add prompts", spec__evaluation={"prompts": [], "systemPrompt": "Hi."}),
    _created("a further set", spec__evaluation__datasets=[FURTHER]),
    _created("a further set of no name", "name", spec__evaluation__datasets=[rows_at("s3://bucket/x.jsonl")]),
    _created("a further set with a path as its name", "name", spec__evaluation__datasets=[FURTHER | {"name": "a/b"}]),
    _created("two further sets of one name", "uplicate", spec__evaluation__datasets=[FURTHER] * 2),
    _created(
        "a further set in two places", "exactly one of", spec__evaluation__datasets=[FURTHER | rows_at("pvc://a/x")]
    ),
    _created(
        "a further set that goes back",
        "without them",
        spec__evaluation__datasets=[{"name": "x"} | rows_at("pvc://a/../x")],
    ),
    _created(
        "nine further sets",
        "datasets",
        spec__evaluation__datasets=[FURTHER | {"name": f"set-{number}"} for number in range(9)],
    ),
    _created("17 prompts", "prompts", spec__evaluation__prompts=["x"] * 17),
    _created("exact match", spec__evaluation__exactMatch={"rows": 8, "ignoreCase": True}),
    _created("an exact match of no rows", "exactMatch", spec__evaluation__exactMatch={"rows": 0}),
    _created(
        "a gate on exact match",
        "needs evaluation.exactMatch",
        spec__evaluation__gates=[RIGHT],
    ),
    _created(
        "a gate on what is measured",
        spec__evaluation={"exactMatch": {}, "gates": [RIGHT]},
    ),
    # methods
    _created("preferences", spec__training__method="DPO", spec__training__dpo={"beta": 0.2}),
    _created("settings of another method", "training.dpo is for method DPO only", spec__training__dpo={}),
    _created(
        "settings of SFT for DPO",
        "training.sft is for method SFT only",
        spec__training__method="DPO",
        spec__training__sft={},
    ),
    _created("a beta of nought", "dpo.beta", spec__training__method="DPO", spec__training__dpo={"beta": 0}),
    _created(
        "smoothed labels without robust",
        "has an effect only with lossType robust",
        spec__training__method="DPO",
        spec__training__dpo={"labelSmoothing": 0.1},
    ),
    _created(
        "smoothed labels",
        spec__training__method="DPO",
        spec__training__dpo={"labelSmoothing": 0.1, "lossType": "robust"},
    ),
    _created(
        "packed pairs",
        "packing is for method SFT only",
        spec__training__method="DPO",
        spec__training__packing=True,
    ),
    _created("chats for DPO", "does not match", spec__training__method="DPO", spec__dataset__format="Messages"),
    _created("pairs for SFT", "does not match", spec__dataset__format="Preference"),
    _created("a signing key", spec__output__signing={"keySecretRef": {"name": "signing"}}),
    _created("a signing key without a Secret", "keySecretRef", spec__output__signing={}),
    *(_grpo(name, words, **edits) for name, words, edits in GRPO_CASES),
    _created("GRPO without settings", "needs training.grpo.rewards", spec__training__method="GRPO"),
    _created("prompts for SFT", "does not match", spec__dataset__format="Prompt"),
    _created("settings of GRPO for SFT", "training.grpo is for method GRPO only", spec__training__grpo=GRPO),
    _created(
        "a gate on rewards for SFT",
        "is for method GRPO only",
        spec__evaluation__gates=[REWARDED],
    ),
    _created("a checkpoint every minute", spec__training__saveMinutes=1),
    _created("a checkpoint every moment", "spec.training.saveMinutes", spec__training__saveMinutes=0),
    _created("two GPUs", spec__parallelism__gpus=2),
    _created("no GPU", "spec.parallelism.gpus", spec__parallelism__gpus=0),
    _created("a queue and a priority", spec__queueName="gpus.a-1", spec__workloadPriorityClassName="urgent"),
    _created("a queue in capitals", "spec.queueName", spec__queueName="GPUs"),
    _created("a queue without a name", "spec.queueName", spec__queueName=""),
    _created("the longest queue", spec__queueName="q" * 63),
    _created("a queue too long for a label", "spec.queueName", spec__queueName="q" * 64),
    _created(
        "a priority of two words", "spec.workloadPriorityClassName", spec__workloadPriorityClassName="very urgent"
    ),
    _created("two nodes", spec__parallelism__nodes=2),
    _created("no node", "spec.parallelism.nodes", spec__parallelism__nodes=0),
    _created("a hundred nodes", "spec.parallelism.nodes", spec__parallelism__nodes=100),
    _created("an evaluation every step", spec__training__evalSteps=1),
    _created("an evaluation every nought steps", "spec.training.evalSteps", spec__training__evalSteps=0),
    _created("early stopping with its defaults", spec__training__earlyStopping={}),
    _created(
        "early stopping without patience",
        "spec.training.earlyStopping.patience",
        spec__training__earlyStopping={"patience": 0},
    ),
    _created("all exports", spec__output__exports=["Merged16Bit", "GGUF"]),
    _created("an unknown export", "spec.output.exports", spec__output__exports=["onnx"]),
    _created("no export", spec__output__exports=[]),
    _created("quantisations", spec__output__gguf={"quantizationMethods": ["f16", "q4_k_m"]}),
    _created("an unknown quantisation", "quantizationMethods", spec__output__gguf={"quantizationMethods": ["q2"]}),
    # what may change later
    _changed("suspend", {"spec.suspend": True}),
    _changed("a deadline", {"spec.maxRuntimeSeconds": 600}),
    _changed("a deadline taken back", {"spec.maxRuntimeSeconds": None}, spec__maxRuntimeSeconds=600),
    _changed("a TTL", {"spec.jobRetentionSeconds": 60}),
    _changed("a retry limit", {"spec.retryLimit": 0}),
    # what may not
    _changed("a token", {"spec.huggingFace.tokenSecretRef": {"name": "a"}}, "spec.huggingFace cannot change"),
    _changed("the model", {"spec.model.name": "other/model"}, "spec.model cannot change"),
    _changed("the length", {"spec.model.maxSeqLength": 4096}, "spec.model cannot change"),
    _changed("the dataset", {"spec.dataset.uri": "s3://other/x.jsonl"}, "spec.dataset cannot change"),
    _changed("the output", {"spec.output.uri": "s3://other/x"}, "spec.output cannot change"),
    _changed("the rank", {"spec.lora.r": 32}, "spec.lora cannot change"),
    _changed("the rate", {"spec.training.learningRate": 0.001}, "spec.training cannot change"),
    _changed("the GPUs", {"spec.parallelism.gpus": 2}, "spec.parallelism cannot change"),
    _changed("the nodes", {"spec.parallelism.nodes": 2}, "spec.parallelism cannot change"),
    _changed("the evaluation", {"spec.evaluation.samples": 1}, "spec.evaluation cannot change"),
    _changed("a class named later", {"spec.className": "x"}, "spec.className cannot change"),
    _changed("a class unnamed", {"spec.className": None}, "spec.className cannot change", spec__className="x"),
    _changed("a queue named later", {"spec.queueName": "x"}, "while the run is suspended"),
    _changed("another queue", {"spec.queueName": "y"}, "while the run is suspended", spec__queueName="x"),
    _changed("another queue while suspended", {"spec.queueName": "y"}, spec__queueName="x", spec__suspend=True),
    _changed("no queue while suspended", {"spec.queueName": None}, spec__queueName="x", spec__suspend=True),
    _changed(
        "no queue for two nodes",
        {"spec.queueName": None},
        "cannot be removed",
        spec__queueName="x",
        spec__suspend=True,
        spec__parallelism__nodes=2,
    ),
    _changed("another priority while suspended", {"spec.workloadPriorityClassName": "high"}, spec__suspend=True),
    _changed(
        "another queue on resuming",
        {"spec.queueName": "y", "spec.suspend": False},
        "while the run is suspended",
        spec__suspend=True,
    ),
    _changed(
        "another queue on suspending", {"spec.queueName": "y", "spec.suspend": True}, "while the run is suspended"
    ),
    _changed("a priority", {"spec.workloadPriorityClassName": "y"}, "while the run is suspended"),
    _changed("another class", {"spec.className": "y"}, "spec.className cannot change", spec__className="x"),
)
