"""Exit codes of the trainer. The code's class tells the operator what to do; the reason tells the user what
happened."""

from __future__ import annotations

from enum import IntEnum, StrEnum

SIGNALLED = 128
"""Exit codes above this one mean death by a signal: the code minus this is the signal's number."""
KILLED = "Killed"
"""Reason of death by a signal without a termination message."""


class ExitCode(IntEnum):
    """Every way in which prepare and train end. The name is the reason shown in status."""

    Succeeded = 0
    """The stage succeeded."""
    InternalError = 1
    """The trainer failed with an unexpected error.

    Cause: A bug in the trainer or in a library that it uses.
    Remedy: Find the traceback in the pod's log, and report it with spec and log. The operator retries once.
    """
    ConfigInvalid = 10
    """A setting cannot be used.

    Cause: Settings contradict each other, or the trainer image is older than the operator and does not know a
    field.
    Remedy: Change the field that the message names.
    """
    DatasetInvalid = 11
    """Rows cannot be used.

    Cause: Rows do not match their format: not JSON, a missing column, an unknown role, nothing to train on.
    Remedy: Fix the file and line that the message names; data-report.json lists more of them. To leave out some
    unusable rows, set dataset.maxBadFraction.
    """
    DatasetNotFound = 12
    """The dataset does not exist.

    Cause: A typing error in dataset.uri, or rows that are not uploaded yet.
    Remedy: Upload the rows, or correct the address.
    """
    ModelNotFound = 13
    """The base model does not exist.

    Cause: A typing error in model.name or model.revision, or an incomplete folder.
    Remedy: Correct the name, or upload the files that the message names.
    """
    ModelAccessDenied = 14
    """The run may not read the base model from the hub or the object store.

    Cause: No token, a token without access, or a gated model whose licence was not accepted.
    Remedy: Accept the licence on the hub, and set huggingFace.tokenSecretRef.
    """
    ModelUnsupported = 15
    """The base model cannot be trained.

    Cause: An architecture that Unsloth or transformers does not support, or quantised weights that cannot be trained
    on.
    Remedy: Choose another base model; the message names what is supported.
    """
    ChatTemplateInvalid = 16
    """The chat template cannot render the rows.

    Cause: The tokenizer has no chat template, or the template in dataset.chatTemplate fails.
    Remedy: Set dataset.chatTemplate.name, or fix the Jinja source.
    """
    StorageDenied = 17
    """The object store refuses access to the bucket.

    Cause: Wrong keys, or an account without permissions on this path.
    Remedy: Check the Secret or ServiceAccount of the class, and its permissions on the URI in the message.
    """
    DoesNotFit = 18
    """The run does not fit the accelerator's memory.

    Cause: The model, model.maxSeqLength or lora.r is too large for the class.
    Remedy: Choose the class that the message names, or lower the setting that it names.
    """
    Diverged = 19
    """The loss is not a finite number, or has risen far above its first values.

    Cause: A learning rate that is too high, or rows of very different kinds.
    Remedy: Lower training.learningRate; the message names the last good checkpoint.
    """
    QualityGateFailed = 20
    """The adapter does not pass evaluation.gates.

    Cause: Too few steps or rows, or a gate that is too strict.
    Remedy: Check status.evaluation and the model card in rejected/, then train longer, improve the rows or relax the
    gate.
    """
    DatasetAccessDenied = 21
    """The run may not read the dataset from the hub or the object store.

    Cause: No token or keys, or none with access.
    Remedy: Give the token of huggingFace.tokenSecretRef, or the account of the class, access to the dataset.
    """
    RewardFailed = 22
    """A reward function failed.

    Cause: It raised an exception, exceeded timeoutSeconds, or did not return numbers.
    Remedy: Fix the function in the ConfigMap, then create another LoraFineTune.
    """
    SignatureInvalid = 24
    """`lora_trainer verify --public-key` found no valid signature of that key.

    Cause: The adapter is not signed, its manifest or signature was changed, or another key signed it.
    Remedy: Do not use the adapter. Compare the key's id with signingKey in its manifest.json.
    """
    ExportFailed = 25
    """An output format could not be written or verified.

    Cause: The format does not support the base model's architecture.
    Remedy: Remove the format from output.exports. The adapter itself may have been published.
    """
    OutOfMemory = 30
    """The accelerator ran out of memory.

    Cause: Training needs more memory than predicted, or another process uses the accelerator.
    Remedy: None at first: the operator retries with half the micro-batch. After that, choose a class with more memory,
    or lower model.maxSeqLength.
    """
    Interrupted = 40
    """The pod was asked to stop and left a checkpoint.

    Cause: A drained node, a preemption or a suspension.
    Remedy: None: the run resumes from the checkpoint.
    """
    StorageUnavailable = 50
    """The object store does not answer.

    Cause: The store or the network is down.
    Remedy: None if it recovers within the retries; otherwise ask the platform team.
    """
    HubUnavailable = 51
    """The Hugging Face Hub does not answer.

    Cause: The hub, the mirror or the network to it is down.
    Remedy: None if it recovers within the retries; otherwise set hubEndpoint of the class, or keep models in a bucket.
    """
    GpuUnhealthy = 52
    """The accelerator or its driver fails.

    Cause: A hardware fault, a driver that does not match the image, or no accelerator in the pod.
    Remedy: Ask the platform team to check the node that the message names.
    """
    DiskFull = 53
    """The pod's disk is full.

    Cause: The class's scratch is too small for the model and its exports.
    Remedy: Ask the platform team for a class with more scratch, or remove formats from output.exports.
    """
    ProcessLost = 54
    """One of several training processes died.

    Cause: The kernel killed it, or its GPU failed.
    Remedy: None if the retry succeeds; otherwise check the pod's log.
    """
    PeerLost = 55
    """Another pod of the same attempt was lost.

    Cause: A drained node or a fault of the other pod.
    Remedy: None: all pods resume from the checkpoint.
    """


class ExitClass(StrEnum):
    """How the operator reacts to an exit."""

    DONE = "Done"
    USER_ERROR = "UserError"
    """Never retried: the same input fails again."""
    OUT_OF_MEMORY = "OutOfMemory"
    """Retried with half the micro-batch and double the accumulation."""
    INTERRUPTED = "Interrupted"
    """Stopped on request after a committed checkpoint: replaced at no cost."""
    INFRASTRUCTURE = "Infrastructure"
    """Retried with back-off, up to retryLimit."""
    BUG = "Bug"
    """Retried once, then reported as a failure."""
    STUCK = "Stuck"
    """No exit code has it: the operator ended a pod that made no progress. Retried once from the last checkpoint."""


def exit_class(code: int) -> ExitClass:
    """The class of any exit code, known or not.

    A code above 128 means death by signal without a termination message (evicted, lost node, kill -9): infrastructure.
    """
    if code == ExitCode.Succeeded:
        return ExitClass.DONE
    if 10 <= code <= 29:
        return ExitClass.USER_ERROR
    if code == ExitCode.OutOfMemory:
        return ExitClass.OUT_OF_MEMORY
    if code == ExitCode.Interrupted:
        return ExitClass.INTERRUPTED
    if 50 <= code <= 59 or code > SIGNALLED:
        return ExitClass.INFRASTRUCTURE
    return ExitClass.BUG


def reason(code: int) -> str:
    """CamelCase reason for any exit code, for use where the trainer left no outcome."""
    try:
        return ExitCode(code).name
    except ValueError:
        return KILLED if code > SIGNALLED else ExitCode.InternalError.name
