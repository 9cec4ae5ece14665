"""Exit codes of the trainer. The code's class tells the operator what to do; the reason tells the user what
happened."""

from __future__ import annotations

from enum import IntEnum, StrEnum

SIGNALLED = 128
"""Exit codes above this one tell of death by the signal of the number that exceeds it."""
KILLED = "Killed"
"""Reason of death by a signal without a termination message."""


class ExitCode(IntEnum):
    """Every way in which prepare and train end. The name is the reason shown in status."""

    Succeeded = 0
    """The stage did what it should."""
    InternalError = 1
    """The trainer failed in a way that it has no name for.

    Cause: A bug in the trainer or in a library that it uses.
    Remedy: See the pod's log for the traceback; report it, with spec and log. It is retried once.
    """
    ConfigInvalid = 10
    """A setting cannot be used.

    Cause: Settings contradict each other, or the trainer image is older than the operator and does not know a
    field.
    Remedy: Change the field that the message names.
    """
    DatasetInvalid = 11
    """Rows cannot be used.

    Cause: Rows are not what their format wants: no JSON, a column missing, an unknown role, nothing to train on.
    Remedy: Mend the file and line that the message names; data-report.json lists more of them.
    dataset.maxBadFraction lets some be left out.
    """
    DatasetNotFound = 12
    """The data set is not there.

    Cause: A typing error in dataset.uri, or rows that are not uploaded yet.
    Remedy: Upload the rows or mend the address.
    """
    ModelNotFound = 13
    """The base model is not there.

    Cause: A typing error in model.name or model.revision, or an incomplete folder.
    Remedy: Mend the name, or upload what the message says is missing.
    """
    ModelAccessDenied = 14
    """The hub or the store does not let the run read the base model.

    Cause: No token, one without access, or the licence of a gated model was not accepted.
    Remedy: Accept the licence on the hub and name a token in huggingFace.tokenSecretRef.
    """
    ModelUnsupported = 15
    """The base model cannot be trained.

    Cause: An architecture that Unsloth or transformers does not know, or a quantised file that cannot be trained
    on.
    Remedy: Choose another base model; the message names what is supported.
    """
    ChatTemplateInvalid = 16
    """The chat template cannot render the rows.

    Cause: The tokenizer has no chat template, or the one of dataset.chatTemplate fails.
    Remedy: Set dataset.chatTemplate.name, or mend the Jinja source.
    """
    StorageDenied = 17
    """The bucket refuses.

    Cause: Wrong keys, or an account without rights on this path.
    Remedy: Check the Secret or ServiceAccount that the class names, and its rights on the address in the message.
    """
    DoesNotFit = 18
    """The run does not fit the accelerator's memory.

    Cause: The model, model.maxSeqLength or lora.r is too large for the class.
    Remedy: Choose the class that the message names, or lower the setting that it names.
    """
    Diverged = 19
    """The loss is no number or has risen far above its beginning.

    Cause: A learning rate that is too high, or rows of very different kinds.
    Remedy: Lower training.learningRate; the message names the last good checkpoint.
    """
    QualityGateFailed = 20
    """The adapter is not as good as evaluation.gates ask.

    Cause: Too few steps or rows, or a gate that is too strict.
    Remedy: Look at status.evaluation and the model card in rejected/, then train longer, mend the rows or lower the
    gate.
    """
    DatasetAccessDenied = 21
    """The hub or the store does not let the run read the rows.

    Cause: No token or keys, or none with access.
    Remedy: Give the token of huggingFace.tokenSecretRef, or the account of the class, access to the data set.
    """
    RewardFailed = 22
    """A reward function failed.

    Cause: It raised, took longer than its limit, or returned something that is no number.
    Remedy: Mend the function in the ConfigMap, then create another LoraFineTune.
    """
    SignatureInvalid = 24
    """The key that should sign the adapter is none.

    Cause: The Secret does not hold an unencrypted Ed25519 private key in PEM form.
    Remedy: Put one there: openssl genpkey -algorithm ed25519.
    """
    ExportFailed = 25
    """An output format could not be made.

    Cause: The base model's architecture has no such format.
    Remedy: Remove the format from output.exports. The adapter itself may have been published.
    """
    OutOfMemory = 30
    """The accelerator's memory did not suffice.

    Cause: Rows are longer than the prediction assumed, or another process is on the accelerator.
    Remedy: None at first: it is retried with half the micro-batch. When it gives up: a class with more memory, or a
    lower model.maxSeqLength.
    """
    Interrupted = 40
    """The pod was asked to stop and left a checkpoint.

    Cause: A drained node, a preemption or a suspension.
    Remedy: None: the run goes on from the checkpoint.
    """
    StorageUnavailable = 50
    """The object store does not answer.

    Cause: The store or the network is down.
    Remedy: None if it comes back within the retries; otherwise ask the platform team.
    """
    HubUnavailable = 51
    """The Hugging Face Hub does not answer.

    Cause: The hub, the mirror or the way out is down.
    Remedy: None if it comes back within the retries; otherwise set hubEndpoint of the class, or keep models in a
    bucket.
    """
    GpuUnhealthy = 52
    """The accelerator or its driver fails.

    Cause: Hardware, a driver that does not suit the image, or no accelerator in the pod.
    Remedy: Ask the platform team to look at the node that the message names.
    """
    DiskFull = 53
    """The pod's disk is full.

    Cause: scratch of the class is too small for model and exports.
    Remedy: Ask the platform team for a class with more scratch, or for fewer output formats.
    """
    ProcessLost = 54
    """One of several training processes died.

    Cause: Killed by the kernel, or a fault of its GPU.
    Remedy: None if the retry goes well; otherwise see the pod's log.
    """
    PeerLost = 55
    """Another pod of the same attempt is gone.

    Cause: What ended that one: a drained node, a fault.
    Remedy: None: all pods start again from the checkpoint.
    """


class ExitClass(StrEnum):
    """What the operator does about an exit."""

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
    """Retried once and reported as what it is."""
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
