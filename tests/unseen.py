"""What imports do not show: which modules start others as processes, and which tests read which files.

In all patterns * is any text, dots and slashes too.
"""

from __future__ import annotations

CLUSTER = ("tests/cluster", "tests/outages", "tests/install", "tests/fuzz", "tests/kubectl")
"""What has a real API server, and most of it our images."""

DOCUMENTS = (
    "tests/commands",
    "tests/kubectl",
    "tests/unit/docs",
    "tests/unit/operator/test_crds.py",
    "tests/unit/operator/test_monitoring.py",
)
"""What reads documents."""

STARTS = {
    "lora_trainer.publishing.new_process": ("lora_trainer.__main__",),
    "lora_trainer.training.ranks": ("lora_trainer.__main__",),
    "tests.cluster.conftest": ("tests.cluster.scripted_trainer.*",),
    "tests.commands.starting": (
        "benchmarks.*",
        "lora_operator.generate.admission",
        "lora_operator.generate.crds",
        "lora_trainer.__main__",
        "tests.*.__main__",
        "tests.changed",
        "tests.commands.arguments",
        "tests.runner.*",
    ),
    "tests.component.test_simulated_faults": ("tests.faults.__main__",),
    # The images hold all of the operator and the trainer.
    "tests.demo.environment": ("lora_operator.*", "lora_trainer.*", "tests.support.demo_assets"),
    "tests.families.__main__": ("tests.families.*",),
    "tests.fuzz.operator_process": ("lora_operator.__main__",),
    "tests.fuzz.test_fuzz": ("tests.fuzz.__main__",),
    "tests.kubectl.test_kubectl": ("tests.kubectl.__main__",),
    "tests.support.demo_assets": ("tests.support.convert_smollm2",),
    "tests.trainer.test_broken_stages": ("lora_trainer.__main__",),
    "tests.support.stage_process": ("lora_trainer.__main__",),
    "tests.support.trainer_process": ("lora_trainer.__main__",),
    "tests.trainer.test_families": ("tests.families.*",),
    "tests.trainer.test_parameters": ("tests.support.adapter_facts",),
    # It reads their messages.
    "tests.unit.docs.test_field_names": ("lora_operator.*", "lora_trainer.*"),
    "tests.unit.runner.test_main": ("tests.runner.*",),
    "tests.unit.trainer.test_main": ("lora_trainer.__main__",),
}
"""Modules that start others, and patterns of what they start."""

READERS: dict[str, tuple[str, ...]] = {
    "README.md": (*DOCUMENTS, "tests/unit/manifests"),
    "Makefile": ("tests/commands", "tests/unit/runner"),
    "docs/quickstarts/*.md": (*DOCUMENTS, "tests/install/test_documents.py"),
    "docs/tasks/*.md": (*DOCUMENTS, "tests/install/test_documents.py", "tests/unit/manifests"),
    "docs/*.md": DOCUMENTS,
    "*/README.md": DOCUMENTS,
    "benchmarks/results/gpu.json": ("tests/unit/trainer/test_memory.py",),
    "benchmarks/results/vram.json": ("tests/unit/trainer/test_memory.py", "tests/trainer/test_memory_fit.py"),
    "benchmarks/results/*": ("tests/unit/docs/test_links.py",),
    "benchmarks/modules/*": ("tests/commands",),
    "benchmarks/load/manager.Dockerfile": ("tests/commands",),
    "manifests/argocd/*": (
        "tests/cluster/test_manifests.py",
        "tests/install",
        "tests/kubectl",
        "tests/unit/manifests",
        "tests/unit/operator/test_gitops.py",
    ),
    "manifests/monitoring/*": ("tests/unit/docs", "tests/unit/operator/test_monitoring.py", *CLUSTER),
    "manifests/samples/*": ("tests/unit", "tests/trainer/test_notebooks.py", *CLUSTER),
    "manifests/*": ("tests/unit", "tests/component", *CLUSTER),
    "operator/Dockerfile": ("tests/commands", *CLUSTER),
    "trainer-image/Dockerfile": ("tests/commands", *CLUSTER),
    "trainer-image/export_chat_templates.py": ("tests/trainer/test_chat_templates.py", *CLUSTER),
    "requirements/operator.txt": ("tests/commands", *CLUSTER),
    "requirements/prepare.txt": ("tests/commands", "tests/trainer/test_prepare.py", *CLUSTER),
    "requirements/sbom.*": ("tests/commands", *CLUSTER),
    "requirements/trainer.txt": ("tests/commands", *CLUSTER),
    "requirements/trainer-dev.txt": ("tests/commands", "tests/trainer"),
    "requirements/trainer-vllm.txt": ("tests/cluster/test_images.py",),
    "tests/durations.tsv": ("tests/unit/runner",),
    "tests/support/tokenizers.*": (
        "tests/trainer/test_template_conformance.py",
        "tests/unit/trainer/test_borders.py",
    ),
    "tests/golden/*": ("tests/unit/operator",),
    "tests/cluster/kstatus/*": ("tests/cluster/test_kstatus.py",),
    "tests/cluster/modules/argocd/*": ("tests/install",),
    "tests/cluster/modules/kueue/*": ("tests/cluster/test_queues.py",),
    "tests/cluster/modules/kustomize/*": ("tests/install",),
    "tests/cluster/modules/prometheus-operator/*": ("tests/cluster/test_manifests.py",),
    "tests/cluster/modules/toxiproxy/*": ("tests/trainer", *CLUSTER),
    "tests/cluster/modules/*": CLUSTER,
    "tests/cluster/*Dockerfile": CLUSTER,
    "tests/cluster/programs/*": ("tests/trainer", *CLUSTER),
    "tests/cluster/permissions/*": ("tests/cluster",),
    "tests/cluster/manifests.yaml": ("tests/unit/cluster", *CLUSTER),
}
"""The test files and folders that a change of other files can reach, by the first pattern that fits."""

UNCHECKED = ("*.md", "benchmarks/results/*")
"""What neither a linter nor a type checker nor the comparison of what is generated looks at."""
