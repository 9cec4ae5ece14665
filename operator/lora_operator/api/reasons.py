"""The operator's own reasons. The trainer's (DatasetInvalid, OutOfMemory, ...) are the names of
contract.exits.ExitCode."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition has its status. Each reason names exactly one situation."""

    ACCEPTED = "Accepted"
    """The spec is valid and its class was found."""
    PREPARING = "Preparing"
    """The prepare pod reads, checks and tokenises the dataset."""
    PREPARED = "Prepared"
    """The dataset is tokenised and the run is sized."""
    STARTING = "Starting"
    """The train pod is created but does not run yet."""
    TRAINING = "Training"
    """The train pod runs."""
    BACKING_OFF = "BackingOff"
    """An attempt failed, and the operator starts the next one after a pause."""
    BATCH_SHRUNK = "BatchShrunk"
    """After an attempt ran out of accelerator memory, the next one uses a smaller micro-batch. Events only."""
    RESUMED = "Resumed"
    """Training resumed from a checkpoint. Events only."""
    STOPPING = "Stopping"
    """Pods were asked to stop and have not ended yet."""
    ADAPTER_PUBLISHED = "AdapterPublished"
    """The adapter is in the bucket and verified: it loads and changes the model's output."""
    ADAPTER_REUSED = "AdapterReused"
    """An identical run had already published its adapter; nothing was trained."""

    OFFERED = "Offered"
    """Runs may use the class. Classes only."""

    SPEC_INVALID = "SpecInvalid"
    """This version of the operator cannot read the run's spec or its ConfigMap.

    Cause: A newer CRD or an operator that was rolled back.
    Remedy: Change the field that the message names, or ask the platform team to upgrade the operator.
    """
    CLASS_NOT_FOUND = "ClassNotFound"
    """The LoraFineTuneClass does not exist, or there is no default one.

    Cause: A typing error in spec.className, or no default class.
    Remedy: Set spec.className to a class that the message lists. The run starts once the class exists.
    """
    CLASS_INVALID = "ClassInvalid"
    """The LoraFineTuneClass does not fit the operator's schema.

    Cause: A class that was written for another version.
    Remedy: Ask the platform team to fix the class.
    """
    POLICY_VIOLATION = "PolicyViolation"
    """The run uses something that its class does not allow.

    Cause: The class allows less than the run uses.
    Remedy: Change the field that the message names, or choose another class.
    """
    SETTINGS_CONFLICT = "SettingsConflict"
    """Fields of the run contradict each other, once defaults fill its unset fields.

    Cause: A default of the class or the product contradicts a field of the run.
    Remedy: Set the fields that the message names.
    """
    OUTPUT_IN_USE = "OutputInUse"
    """Another unfinished LoraFineTune publishes to the same output.

    Cause: Another run with the same spec.output.uri has begun, or is older and could start.
    Remedy: Wait, or create this run with another spec.output.uri.
    """
    NAME_TAKEN = "NameTaken"
    """An object that the operator did not create has the name of one of the run's children.

    Cause: Another object has the name, the children of a deleted run are still being deleted, or somebody replaced the
    run's ConfigMap.
    Remedy: Wait, delete that object, or choose another name for the run.
    """
    CONFIG_MAP_LOST = "ConfigMapLost"
    """The run's ConfigMap is gone or replaced, and cannot be created again as it was.

    Cause: Somebody deleted it, and the class or the operator's version has changed since the run started.
    Remedy: Restore the ConfigMap or the class, or create another LoraFineTune.
    """

    CLASS_PAUSED = "ClassPaused"
    """The class is paused: no attempt of its runs starts. Attempts that run go on.

    Cause: The platform team has set spec.paused of the class, for maintenance.
    Remedy: Wait: the run continues when the class does.
    """
    OPERATOR_PAUSED = "OperatorPaused"
    """The operator is paused: no attempt of any run starts. Attempts that run go on.

    Cause: The platform team has set LORA_OPERATOR_PAUSED, for maintenance.
    Remedy: Wait: the run continues when the operator does.
    """
    WAITING_FOR_TURN = "WaitingForTurn"
    """The namespace has as many active runs of the class as the class allows."""
    QUEUE_TIMEOUT = "QueueTimeout"
    """The run waited for longer in line or in a queue than its class allows.

    Cause: Other runs hold the places or the accelerators.
    Remedy: Create another LoraFineTune when there is more room, or in another class or queue.
    """
    CHILD_REFUSED = "ChildRefused"
    """The API server refuses a Job, ConfigMap or Service of the run.

    Cause: An admission policy or webhook, a webhook that does not answer, or an invalid value in the class.
    Remedy: Ask the platform team to fix the policy or webhook; the run then continues. If they fix the class instead,
    recreate the run.
    """

    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The kubelet cannot pull the trainer image.

    Cause: The image of the class does not exist, or the nodes may not pull it.
    Remedy: Ask the platform team to fix the class's image or pull secret.
    """
    SECRET_NOT_FOUND = "SecretNotFound"
    """A Secret that the pod needs, or one of its keys, does not exist.

    Cause: The Secret is missing in the run's namespace.
    Remedy: Create it with the keys that the message names; the pod then starts.
    """
    POD_CONFIG_INVALID = "PodConfigInvalid"
    """The kubelet cannot create the container.

    Cause: A ConfigMap, claim or setting of the pod does not exist.
    Remedy: Create what the message names.
    """
    POD_REFUSED = "PodRefused"
    """The API server refuses the pod (Pod Security, an admission policy or webhook).

    Cause: Pod Security, an admission policy or a webhook forbids the pod.
    Remedy: Ask the platform team to allow it or to fix the class.
    """
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The namespace's quota has no room for the pod or its Job.

    Cause: The namespace's ResourceQuota is used up.
    Remedy: Wait for other runs to end, or ask for more quota; the run then continues.
    """
    UNSCHEDULABLE = "Unschedulable"
    """The scheduler finds no node for the pod.

    Cause: All accelerators are in use, or no node fits the class.
    Remedy: Wait. If no node fits the class, ask the platform team to fix it.
    """
    QUEUED = "Queued"
    """A queue suspends the Job."""

    NODE_LOST = "NodeLost"
    """A pod was deleted and does not end: nothing is heard of its node.

    Cause: The node is down or cut off, or its kubelet cannot end the pod. Nobody has removed the Node object.
    Remedy: Make sure that the node is off, then taint it with node.kubernetes.io/out-of-service or delete its Node
    object. If it comes back by itself, the run continues by itself.
    """
    SIDECAR_RUNNING = "SidecarRunning"
    """The trainer's container has ended, but another container keeps its pod running.

    Cause: A webhook injects a container that does not end by itself.
    Remedy: Delete the pod. Then inject the container as a native sidecar (an init container with restartPolicy
    Always), or exclude the run's pods from the injection by spec.pod of the class.
    """
    REPEATEDLY_DISRUPTED = "RepeatedlyDisrupted"
    """Pods of the run were drained, preempted or evicted several times in a row before training gained a step.

    Cause: Nodes without enough disk or memory, pods of a higher priority, or a drain that does not end.
    Remedy: Ask the platform team to check the nodes and the priority of the class. The operator tries again after
    growing pauses; the reason goes away when training gains a step.
    """

    SUSPENDED_BY_USER = "SuspendedByUser"
    """spec.suspend is true."""
    NOT_SUSPENDED = "NotSuspended"
    """spec.suspend is false."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The run's pods have used the time that spec.maxRuntimeSeconds allows.

    Cause: The run took longer than spec.maxRuntimeSeconds, or than the class's limit.
    Remedy: Create another LoraFineTune with a longer deadline or fewer steps.
    """
    NO_PROGRESS = "NoProgress"
    """The train pod answers but makes no steps; the operator ends it.

    Cause: A hung accelerator, or a peer that waits forever.
    Remedy: None at first: the operator restarts it once. After that, ask the platform team to check the accelerators of
    its node.
    """
    OUT_OF_HOST_MEMORY = "OutOfHostMemory"
    """The kernel killed the container because it exceeded its memory limit.

    Cause: The stage needs more host memory than the class gives it.
    Remedy: Ask for a class with more memory for this stage.
    """
    OUT_OF_EPHEMERAL_STORAGE = "OutOfEphemeralStorage"
    """The kubelet evicted the pod because it wrote more to its disk than its volumes or containers may hold.

    Cause: The class's scratch, or its limit of ephemeral-storage, is too small for the model and its exports.
    Remedy: Ask the platform team for a class with more scratch, or remove formats from output.exports.
    """
    POD_REJECTED = "PodRejected"
    """The kubelet of the node did not run the pod that the scheduler gave it.

    Cause: Its devices failed or were taken meanwhile (UnexpectedAdmissionError, OutOfcpu), or the node shuts down.
    Remedy: None at first: the operator retries it. If it happens again, check the node's device plugin.
    """
    POD_LOST = "PodLost"
    """The pod ended without a termination message (lost node, eviction, deletion by hand).

    Cause: A lost node, an eviction, or kubectl delete pod.
    Remedy: None: the operator retries it.
    """
    DISRUPTED = "Disrupted"
    """One of several pods was drained, preempted, evicted or asked to stop, so all of them ended."""
    RESULT_LOST = "ResultLost"
    """The Job completed, but its pod was removed before the operator read the result. The operator starts another
    attempt, which does not count as a retry."""
    JOB_DELETED = "JobDeleted"
    """The Job of the attempt was deleted, but not by the operator.

    Cause: A person or another program deleted the Job.
    Remedy: None: the operator retries it. To stop a run, set spec.suspend.
    """
    OUTCOME_MISSING = "OutcomeMissing"
    """The pod exited with code 0 but left no readable result.

    Cause: The trainer image does not match this version of the operator.
    Remedy: Ask the platform team to fix the class's image.
    """
    FAILED = "Failed"
    """The run ended without an adapter."""
