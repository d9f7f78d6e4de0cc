"""Machines that are pods. Three requests of Kubernetes' API are all that it takes: list, create, delete."""

import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from services.provisioner.domain import Machine
from services.provisioner.machines.pods import CLASS, MACHINE, MANAGED, OURS, Template, pod_name, state_of
from services.provisioner.machines.port import MachineError
from services.provisioner.settings import ProvisionerSettings, WorkerClass

SECONDS = 10.0
Answer = Mapping[str, Any]


class KubernetesMachines:
    """Pods of one namespace, made from a template. They outlive the provisioner and go with its Deployment."""

    def __init__(
        self,
        server: str,
        account: Path,
        template: Template,
        classes: Sequence[WorkerClass],
        *,
        owner: str | None = None,
    ) -> None:
        self._account, self._template, self._owner = account, template, owner
        self._classes = {one.name: one for one in classes}
        self._namespace = self._read("namespace")
        ca = account / "ca.crt"
        try:
            verify = ssl.create_default_context(cafile=str(ca)) if ca.exists() else True
        except OSError as error:
            raise MachineError(f"the service account's ca.crt cannot be used: {error}") from error
        self._http = httpx.AsyncClient(
            base_url=server.rstrip("/"), verify=verify, timeout=SECONDS, trust_env=False
        )

    @classmethod
    def of(cls, settings: ProvisionerSettings) -> "KubernetesMachines":
        """Return the machines that the settings describe.

        Raises:
            MachineError: There is no template, no class, or no service account.
        """
        if settings.pod_template is None:
            raise MachineError("PROVISIONER_POD_TEMPLATE names no file; give the pods' template")
        if not settings.classes:
            raise MachineError("PROVISIONER_CLASSES is empty; declare at least one class of machines")
        template = Template.read(settings.pod_template)
        return cls(settings.api_server, settings.account, template, settings.classes, owner=settings.owner)

    async def find(self) -> Sequence[Machine]:
        found = await self._ask("GET", self._pods(), params={"labelSelector": f"{MANAGED}={OURS}"})
        if not isinstance(found, dict) or "items" not in found:
            raise MachineError(f"what answers at {self._http.base_url} lists no pods: is that Kubernetes?")
        now = datetime.now(UTC)
        return [machine for pod in found["items"] if (machine := _machine(pod, now)) is not None]

    async def start(self, name: str, kind: str) -> None:
        wanted = self._classes.get(kind)
        if wanted is None:
            raise MachineError(
                f"class {kind!r} of {name} is not declared; PROVISIONER_CLASSES has {[*self._classes]}"
            )
        owner = None if self._owner is None else await self._owned_by(self._owner)
        pod = self._template.pod(name, wanted, owner)
        await self._ask("POST", self._pods(), json=pod, fine=409)  # it is there: another one of us was faster

    async def stop(self, name: str) -> None:
        await self._ask("DELETE", f"{self._pods()}/{pod_name(name)}", fine=404)

    async def close(self) -> None:
        await self._http.aclose()

    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"

    async def _owned_by(self, name: str) -> Answer:
        """Return the reference to a Deployment: without it pods stay when everything else is deleted."""
        path = f"/apis/apps/v1/namespaces/{self._namespace}/deployments/{name}"
        found = await self._ask("GET", path)
        about = {"name": name, "uid": found["metadata"]["uid"]}
        return {"apiVersion": "apps/v1", "kind": "Deployment", **about, "blockOwnerDeletion": False}

    async def _ask(self, method: str, path: str, *, fine: int = 200, **request: Any) -> Answer:
        token = self._read("token")  # each time: kubelet replaces it every hour
        try:
            headers = {"Authorization": f"Bearer {token}"}
            answer = await self._http.request(method, path, headers=headers, **request)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise MachineError(f"Kubernetes does not answer {method} {path}: {why}") from error
        if answer.is_error and answer.status_code != fine:
            raise MachineError(f"Kubernetes refuses {method} {path} ({answer.status_code}): {_message(answer)}")
        try:
            found: Answer = answer.json()
        except ValueError as error:
            raise MachineError(f"Kubernetes answers {method} {path} with no JSON: {answer.text[:80]!r}") from error
        return found

    def _read(self, name: str) -> str:
        try:
            return (self._account / name).read_text().strip()
        except OSError as error:
            raise MachineError(f"the service account's {name} cannot be read: {error}") from error


def _machine(pod: Answer, now: datetime) -> Machine | None:
    labels = pod["metadata"].get("labels", {})
    if MACHINE not in labels:
        return None
    state, reason = state_of(pod, now)
    return Machine(labels[MACHINE], labels.get(CLASS, ""), state, reason)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
