"""What a worker's pod is made of, and what one's status says. Pure but for reading the template."""

import copy
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from services.provisioner.domain import MachineState
from services.provisioner.machines.port import MACHINE_LABEL, MachineError
from services.provisioner.settings import WorkerClass

MANAGED, OURS = "app.kubernetes.io/managed-by", "trainwright-provisioner"
MACHINE, CLASS = "trainwright.io/machine", "trainwright.io/class"
CONTAINER = "worker"
GPU = "nvidia.com/gpu"
GONE_WITHIN = timedelta(seconds=60)
"""Time in which a kubelet says that a pod is gone that was to have ended; the node of a later one is lost."""
Document = Mapping[str, Any]


def pod_name(machine: str) -> str:
    """Return the name of a machine's pod."""
    return f"trainwright-worker-{machine}"


class Template:
    """A pod without what differs between machines: name, labels, resources, node."""

    def __init__(self, document: Any) -> None:
        """Take a document with `metadata` and `spec`.

        Raises:
            MachineError: It has no container `worker`.
        """
        self._document = document
        try:
            self._container(document)
        except (LookupError, TypeError, AttributeError) as error:
            raise MachineError(f"the pods' template has no container {CONTAINER!r} in spec.containers") from error

    @classmethod
    def read(cls, path: Path) -> "Template":
        """Return the template of a YAML file.

        Raises:
            MachineError: It cannot be read, or is none.
        """
        try:
            return cls(yaml.safe_load(path.read_text()))
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise MachineError(f"the pods' template {path} cannot be read: {error}") from error

    def pod(self, machine: str, wanted: WorkerClass, owner: Document | None) -> dict[str, Any]:
        """Return the pod of a machine."""
        pod: dict[str, Any] = copy.deepcopy(self._document)
        pod |= {"apiVersion": "v1", "kind": "Pod"}
        about = pod.setdefault("metadata", {})
        about["name"] = pod_name(machine)
        ours = {MANAGED: OURS, MACHINE: machine, CLASS: wanted.name}
        about["labels"] = {**about.get("labels", {}), **ours}
        if owner is not None:
            about["ownerReferences"] = [dict(owner)]
        if wanted.node_selector:
            pod["spec"]["nodeSelector"] = {**pod["spec"].get("nodeSelector", {}), **wanted.node_selector}
        container = self._container(pod)
        container["resources"] = _resources(wanted, container.get("resources", {}))
        container["env"] = [*container.get("env", []), *_environment(machine, wanted)]
        return pod

    @staticmethod
    def _container(pod: Any) -> Any:
        found = [one for one in pod["spec"]["containers"] if one["name"] == CONTAINER]
        return found[0]


def _resources(wanted: WorkerClass, given: Document) -> dict[str, Any]:
    """Return requests and limits: a worker promises to tasks what it offers, so it has it for itself."""
    own = {"cpu": f"{round(wanted.cpu * 1000)}m", "memory": str(wanted.memory)}
    if wanted.gpu:
        own[GPU] = str(wanted.gpu)
    return {part: {**given.get(part, {}), **own} for part in ("requests", "limits")}


def _environment(machine: str, wanted: WorkerClass) -> Iterator[Document]:
    labels = json.dumps({MACHINE_LABEL: machine, "class": wanted.name})
    yield {"name": "TRAINWRIGHT_WORKER_CPUS", "value": f"{wanted.cpu:g}"}
    yield {"name": "TRAINWRIGHT_WORKER_MEMORY", "value": str(wanted.memory)}
    yield {"name": "TRAINWRIGHT_WORKER_LABELS", "value": labels}


def state_of(pod: Document, now: datetime) -> tuple[MachineState, str]:
    """Return how a pod stands, and why it is no further."""
    status, ends = pod.get("status", {}), pod["metadata"].get("deletionTimestamp")
    phase, reason = status.get("phase", "Pending"), _reason(status)
    if ends and now - datetime.fromisoformat(ends) > GONE_WITHIN:
        return MachineState.LOST, "its node does not say that it has ended"
    if phase in ("Succeeded", "Failed"):
        state = MachineState.OVER
    elif ends:
        return MachineState.ENDING, ""
    elif phase == "Running" and not reason:
        state = MachineState.RUNNING
    else:
        state = MachineState.STARTING
    return state, reason


def _reason(status: Document) -> str:
    """Return what a pod waits for or ended by: of its containers, of the pod, of its conditions."""
    for container in status.get("containerStatuses", []):
        state = container.get("state", {})
        found = state.get("waiting") or state.get("terminated") or {}
        if found.get("reason") not in (None, "ContainerCreating", "PodInitializing", "Completed"):
            return _words(found)
    if status.get("reason"):
        return _words(status)
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _words(condition)
    return ""


def _words(found: Document) -> str:
    return ": ".join(str(word) for word in (found.get("reason"), found.get("message")) if word)
