"""The kubectl commands of documents that no test follows as a whole, and what each prints. They build on each other."""

from __future__ import annotations

from dataclasses import dataclass

RUN, TEAM, NODE = "text-to-sql", "team-a", "worker"
PLACEHOLDERS = {"NAMESPACE": TEAM, "NAME": RUN, '"$NODE"': NODE}


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A command as it stands in a document."""

    command: str
    prints: str
    """A part of it."""
    smaller: str = ""
    """An option that makes it end at once, where it would wait for pods."""

    @property
    def runnable(self) -> str:
        """With names in place of what a reader fills in."""
        text = self.command
        for placeholder, name in PLACEHOLDERS.items():
            text = text.replace(placeholder, name)
        return f"{text} {self.smaller}".strip()


DOCUMENTED = (
    Documented(
        command="kubectl apply -f manifests/samples/first-run.yaml",
        prints="lorafinetune.lora-operator.io/first-run created",
    ),
    Documented(command="kubectl -n NAMESPACE get lft", prints=RUN),
    Documented(command="kubectl -n team-a get lft", prints="PROGRESS"),
    Documented(command="kubectl describe lft NAME", prints="Kind:         LoraFineTune"),
    Documented(command="kubectl wait --for=condition=Finished lft/NAME --timeout=2h", prints="condition met"),
    Documented(
        command="kubectl -n team-a wait --for=condition=Finished lft/text-to-sql --timeout=6h", prints="condition met"
    ),
    Documented(command="kubectl get lftc", prints="UNFINISHED"),
    Documented(command="kubectl explain lft.spec", prints="FIELD: spec"),
    Documented(command="kubectl explain lorafinetune.spec", prints="output\t<Object> -required-"),
    Documented(command="kubectl explain lorafinetune.spec.dataset --recursive", prints="weight"),
    Documented(
        command="kubectl -n team-a create secret generic signing --from-file=private.pem",
        prints="secret/signing created",
    ),
    Documented(command="kubectl apply -k manifests/kueue", prints="clusterrolebinding"),
    Documented(command="kubectl -n team-a get workloads", prints="job-of-a-run"),
    Documented(command="kubectl -n team-a get localqueue gpus", prints="gpus"),
    Documented(
        command="kubectl apply -k manifests/class-viewers",
        prints="clusterrolebinding.rbac.authorization.k8s.io/lora-operator-class-viewers created",
    ),
    Documented(command="kubectl apply -k manifests/network/operator", prints="networkpolicy"),
    Documented(command="kubectl apply --namespace team-a -k manifests/network/tenant", prints="networkpolicy"),
    Documented(
        command="kubectl apply --namespace team-a -k manifests/namespaced/served",
        prints="rolebinding.rbac.authorization.k8s.io/lora-operator-runs created",
    ),
    Documented(
        command="kubectl apply --server-side -k manifests/argocd/settings",
        prints="configmap/argocd-cm serverside-applied",
    ),
    Documented(command="kubectl create namespace object-store", prints="namespace/object-store created"),
    Documented(
        command="kubectl --namespace object-store create secret generic object-store-root "
        '--from-literal=accessKeyId=demo-root --from-literal=secretAccessKey="$(openssl rand -hex 20)"',
        prints="secret/object-store-root created",
    ),
    Documented(command="kubectl apply -k manifests/demo/object-store", prints="deployment.apps/object-store created"),
    Documented(
        command="kubectl --namespace object-store rollout status deployment/object-store",
        smaller="--watch=false",
        prints="Waiting for deployment",
    ),
    Documented(
        command='kubectl drain "$NODE" --ignore-daemonsets --delete-emptydir-data', prints="node/worker drained"
    ),
    Documented(
        command='kubectl taint nodes "$NODE" node.kubernetes.io/out-of-service=down:NoExecute',
        prints="node/worker tainted",
    ),
    Documented(command="kubectl delete lft --all -A", prints='"text-to-sql" deleted'),
    Documented(command="kubectl delete lftc --all", prints='"gpu-24g" deleted'),
)
