"""Reasons of the operator's own. The trainer's (DatasetInvalid, OutOfMemory, ...) are the names of
contract.exits.ExitCode."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition has its status. Each names one situation and nothing else."""

    ACCEPTED = "Accepted"
    """The spec is valid and its class was found."""
    PREPARING = "Preparing"
    """The prepare pod checks and tokenises the data set."""
    PREPARED = "Prepared"
    """The data set is tokenised and the run is sized."""
    STARTING = "Starting"
    """The train pod is created and does not run yet."""
    TRAINING = "Training"
    """The train pod runs."""
    BACKING_OFF = "BackingOff"
    """An attempt failed for a passing cause; the next one starts after a pause."""
    BATCH_SHRUNK = "BatchShrunk"
    """After running out of accelerator memory an attempt takes fewer rows at a time. Events only."""
    RESUMED = "Resumed"
    """Training went on from a checkpoint. Events only."""
    STOPPING = "Stopping"
    """Pods were asked to stop and have not ended yet."""
    ADAPTER_PUBLISHED = "AdapterPublished"
    """The adapter is in the bucket, was loaded back, and works."""
    ADAPTER_REUSED = "AdapterReused"
    """An adapter of this very run was already published; nothing was trained."""

    OFFERED = "Offered"
    """Runs may use the class. Classes only."""

    SPEC_INVALID = "SpecInvalid"
    """The spec, or what it was resolved to, does not fit this operator's version.

    Cause: A newer CRD or an operator that was rolled back.
    Remedy: Change the field that the message names, or have the operator upgraded.
    """
    CLASS_NOT_FOUND = "ClassNotFound"
    """The LoraFineTuneClass does not exist, or there is no default one.

    Cause: A typing error in spec.className, or no default class.
    Remedy: Set spec.className to a class that the message lists. The run goes on by itself once the class is there.
    """
    CLASS_INVALID = "ClassInvalid"
    """The LoraFineTuneClass does not fit the operator's schema.

    Cause: A class that was written for another version.
    Remedy: Ask the platform team to mend the class.
    """
    POLICY_VIOLATION = "PolicyViolation"
    """The run names or asks for something that its class does not allow.

    Cause: The class allows less than the run asks for.
    Remedy: Change the field that the message names, or choose another class.
    """
    SETTINGS_CONFLICT = "SettingsConflict"
    """Fields of the run do not agree with each other, once defaults fill in what it leaves unset.

    Cause: A default of the class or the product does not go together with a field of the run.
    Remedy: Set the fields that the message names.
    """
    OUTPUT_IN_USE = "OutputInUse"
    """Another unfinished LoraFineTune publishes to the same output.

    Cause: Two runs publish to one place.
    Remedy: Wait, or give this run another spec.output.uri.
    """
    NAME_TAKEN = "NameTaken"
    """A child's name is held by an object of another owner.

    Cause: Something else has the name, or a deleted run's children still go.
    Remedy: Wait, delete that object, or choose another name.
    """

    CHILD_REFUSED = "ChildRefused"
    """The API server refuses a Job, ConfigMap or Service of the run.

    Cause: An admission policy or webhook, a webhook that does not answer, or a value of the class that no pod can have.
    Remedy: Ask the platform team to allow it or to mend the webhook, and the run goes on by itself; or to mend the
    class, and create the run anew.
    """

    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The kubelet cannot pull the trainer image.

    Cause: The image of the class is not there, or nodes may not read it.
    Remedy: Ask the platform team to mend the class's image or pull secret.
    """
    SECRET_NOT_FOUND = "SecretNotFound"
    """A Secret or one of its keys that the pod needs does not exist.

    Cause: The Secret is missing in the run's namespace.
    Remedy: Create it with the keys that the message names; the pod starts by itself.
    """
    POD_CONFIG_INVALID = "PodConfigInvalid"
    """The kubelet cannot create the container.

    Cause: A ConfigMap, claim or setting of the pod does not exist.
    Remedy: Create what the message names.
    """
    POD_REFUSED = "PodRefused"
    """The API server refuses the pod (pod security, an admission policy or webhook).

    Cause: Pod Security, an admission policy or a webhook forbids the pod.
    Remedy: Ask the platform team to allow it or to mend the class.
    """
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The namespace's quota has no room for the pod or its Job.

    Cause: The namespace's ResourceQuota is used up.
    Remedy: Wait for other runs to end, or ask for more quota; the run goes on by itself.
    """
    UNSCHEDULABLE = "Unschedulable"
    """No node has room for the pod.

    Cause: All accelerators are taken, or no node fits the class.
    Remedy: Wait; if no node could ever hold the pod, ask the platform team to mend the class.
    """
    QUEUED = "Queued"
    """A queue holds the Job back."""

    SUSPENDED_BY_USER = "SuspendedByUser"
    """spec.suspend is true."""
    NOT_SUSPENDED = "NotSuspended"
    """spec.suspend is false."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The run's pods have run for spec.maxRuntimeSeconds.

    Cause: The run took longer than spec.maxRuntimeSeconds, or the class's limit.
    Remedy: Create another LoraFineTune with a longer deadline or fewer steps.
    """
    NO_PROGRESS = "NoProgress"
    """The train pod answers and makes no more steps; it is ended.

    Cause: A hung accelerator, or a peer that waits for ever.
    Remedy: It is restarted once; after that ask the platform team to look at the accelerators of its node.
    """
    OUT_OF_HOST_MEMORY = "OutOfHostMemory"
    """The kernel killed the container for using more memory than its limit.

    Cause: The stage takes more host memory than the class gives it.
    Remedy: Ask for a class with more memory for this stage.
    """
    POD_LOST = "PodLost"
    """The pod vanished without a termination message (node lost, deleted by hand, evicted).

    Cause: A lost node, an eviction, or kubectl delete pod.
    Remedy: None: it is retried.
    """
    DISRUPTED = "Disrupted"
    """One of several pods was drained, preempted, evicted or asked to stop, and all ended with it."""
    RESULT_LOST = "ResultLost"
    """The Job completed, and its pod was removed before the operator read the result. Another attempt asks for it and
    costs no retry."""
    JOB_DELETED = "JobDeleted"
    """The Job of the attempt was deleted by someone else.

    Cause: Somebody deleted the Job.
    Remedy: None: it is retried. To stop a run set spec.suspend.
    """
    OUTCOME_MISSING = "OutcomeMissing"
    """The pod ended well and left no readable result.

    Cause: The trainer image does not speak this contract.
    Remedy: Ask the platform team to mend the class's image.
    """
    FAILED = "Failed"
    """The run ended without an adapter."""
