"""Manifests for Kubernetes: an artefact on a volume behind ``convbench serve`` and a Service, scaled on its queue."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convbench.errors import UsageError

from ..export import folder
from ..export.folder import Manifest
from .served import Served

IMAGE = re.compile(r"[a-z0-9]([a-z0-9._:/-]{0,200}[a-z0-9])?(@sha256:[0-9a-f]{64})?")
DNS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
PORT = 8000
GRACE_S, DRAIN_S = 30, 5  # to answer what was accepted; until load balancers have noticed
MOUNT = "/models"
GIB = 2**30


@dataclass(frozen=True)
class Pods:
    """Settings of a deployment."""

    image: str  # a container image in which convbench is installed
    claim: str  # PersistentVolumeClaim that holds the artefact's folder
    max_batch: int | None = None
    max_delay_s: float = 0.005
    queue: int = 256
    instances: int = 2  # pods at least; one may then be lost
    most_instances: int = 8
    threads: int | None = None  # None for one core
    gpus: int = 0


def deploy(artefact: Path, out: Path, wanted: Pods, force: bool = False) -> list[str]:
    """Write the manifests to the folder ``out``, whole or not at all. Returns the names of the files.

    Raises UsageError for an artefact that is damaged or cannot be served, and for names that Kubernetes does not take.
    """
    import yaml

    if not IMAGE.fullmatch(wanted.image):
        raise UsageError(f"--image {ascii(wanted.image)[:80]} is not the name of a container image")
    if not DNS.fullmatch(wanted.claim):
        raise UsageError(f"--claim {ascii(wanted.claim)[:80]}: lower-case letters, digits and dashes, 63 at most")
    manifest = folder.read(artefact)
    if changed := folder.changed_files(artefact, manifest):
        raise UsageError(f"{artefact} is damaged: {'; '.join(changed)}: export it again")
    if wanted.most_instances < wanted.instances:
        raise UsageError(f"--max-instances {wanted.most_instances} is below --instances {wanted.instances}")
    if not DNS.fullmatch(artefact.absolute().name.replace(".", "-").replace("_", "-").lower()):
        raise UsageError(f"{artefact.name} is not a name for a folder on a volume: rename it")
    files = manifests(manifest, artefact.absolute().name, wanted)
    with folder.making(out, force) as partial:
        for name, content in files.items():
            (partial / name).write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return list(files)


def manifests(manifest: Manifest, path: str, wanted: Pods) -> dict[str, dict[str, Any]]:
    """The objects of a deployment, by file.

    Args:
        path: of the artefact on the volume.
    """
    served = Served(manifest, wanted.max_batch or manifest.batch[1])
    name = (
        served.name.replace("_", "-").lower().lstrip("-0123456789")[:50].rstrip("-") or "model"
    )  # as Services want it
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "convbench"}

    def made(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}

    pods = {"matchLabels": labels}
    return {
        "deployment.yaml": made(
            "apps/v1",
            "Deployment",
            {
                "selector": pods,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT)},
                    },
                    "spec": _pod(manifest, path, wanted, served.max_batch),
                },
            },
        ),
        "service.yaml": made(
            "v1",
            "Service",
            {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        ),
        "autoscaler.yaml": made(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": wanted.instances,
                "maxReplicas": wanted.most_instances,
                # One full batch that waits in each pod: beyond it, requests wait longer than a batch takes.
                "metrics": [
                    {
                        "type": "Pods",
                        "pods": {
                            "metric": {"name": "convbench_queue_images"},
                            "target": {"type": "AverageValue", "averageValue": str(served.max_batch)},
                        },
                    }
                ],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
            },
        ),
        "disruption.yaml": made("policy/v1", "PodDisruptionBudget", {"maxUnavailable": 1, "selector": pods}),
    }


def _pod(manifest: Manifest, path: str, wanted: Pods, max_batch: int) -> dict[str, Any]:
    threads = wanted.threads or 1
    arguments = ["serve", f"{MOUNT}/{path}", "--host", "0.0.0.0", "--port", str(PORT), "--grace", f"{GRACE_S}s"]
    arguments += ["--max-batch", str(max_batch), "--max-delay", f"{wanted.max_delay_s * 1e3:g}ms"]
    arguments += ["--queue", str(wanted.queue), "--threads", str(threads)]
    stored = sum(int(each["bytes"]) for each in manifest.files.values())
    # The file, what a runtime makes of it, and the interpreter: an estimate, to be replaced by what /metrics reports.
    memory = f"{-(-3 * stored // GIB) + 1}Gi"
    resources: dict[str, Any] = {"cpu": str(threads), "memory": memory}
    if wanted.gpus:
        resources["nvidia.com/gpu"] = str(wanted.gpus)

    def probe(place: str, **times: int) -> dict[str, Any]:
        return {"httpGet": {"path": place, "port": "http"}, **times}

    container = {
        "name": "serve",
        "image": wanted.image,
        "command": ["convbench"],
        "args": arguments,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"requests": resources, "limits": resources},
        "startupProbe": probe("/v2/health/ready", periodSeconds=5, failureThreshold=120),
        "readinessProbe": probe("/v2/health/ready", periodSeconds=2, failureThreshold=1),
        "livenessProbe": probe("/v2/health/live", periodSeconds=10, failureThreshold=3, timeoutSeconds=5),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(DRAIN_S)]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "env": [{"name": "HOME", "value": "/tmp"}],
        "volumeMounts": [
            {"name": "models", "mountPath": MOUNT, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S + DRAIN_S + 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": wanted.claim, "readOnly": True}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
