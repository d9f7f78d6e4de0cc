"""What the platform says: who waits, which workers there are. A client of the public API, as a person would be."""

from typing import TypeVar

import httpx
from pydantic import ValidationError

from services.provisioner.domain import IDLE, Size, Wish, Worker
from services.provisioner.machines.port import MACHINE_LABEL
from services.provisioner.settings import ProvisionerSettings
from trainwright.contracts.base import Contract
from trainwright.contracts.pool import DemandView
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.worker import WorkerList, WorkerView

PREFIX = "/api/v1/training"
SECONDS = 10.0
C = TypeVar("C", bound=Contract)


class Unknown(Exception):
    """The platform does not say; the message is one sentence. Nothing is decided without it."""


class Platform:
    """The platform's public API."""

    def __init__(self, settings: ProvisionerSettings) -> None:
        self._settings = settings
        self._http = httpx.AsyncClient(
            base_url=settings.url.rstrip("/") + PREFIX, timeout=SECONDS, trust_env=False
        )

    async def look(self) -> tuple[tuple[Wish, ...], tuple[Worker, ...]]:
        """Return who waits, and the workers that were started here.

        Workers are asked for first: who gets a place in between is not counted as waiting beside a full worker.

        Raises:
            Unknown: It does not answer, or refuses.
        """
        workers = await self._ask(WorkerList, "GET", "/workers")
        demand = await self._ask(DemandView, "GET", "/resources/demand")
        wishes = [
            Wish(
                Size(one.gpu, one.cpu, one.memory, one.gpu_memory),
                one.count,
                one.waited_seconds,
                one.reason,
                by_quota=one.waits_for is WaitClass.QUOTA,
            )
            for one in demand.demand
        ]
        ours = sorted(workers.workers, key=lambda view: view.registered_at)
        return tuple(wishes), tuple(_worker(view) for view in ours if MACHINE_LABEL in view.labels)

    async def drain(self, worker_id: str) -> None:
        """Let a worker take nothing new.

        Raises:
            Unknown: It is not known whether that was heard.
        """
        await self._ask(Contract, "POST", f"/workers/{worker_id}/drain", json={"reason": IDLE})

    async def undrain(self, worker_id: str) -> None:
        """Let a worker take attempts again.

        Raises:
            Unknown: It is not known whether that was heard.
        """
        await self._ask(Contract, "POST", f"/workers/{worker_id}/undrain")

    async def close(self) -> None:
        """Let connections go."""
        await self._http.aclose()

    async def _ask(self, model: type[C], method: str, path: str, json: object = None) -> C:
        try:
            headers = {"Authorization": f"Bearer {self._settings.key()}"}
            answer = await self._http.request(method, path, json=json, headers=headers)
        except OSError as error:
            raise Unknown(f"the API key cannot be read: {error}") from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Unknown(f"the platform at {self._settings.url} does not answer: {why}") from error
        if answer.is_error:
            raise Unknown(f"the platform answers {method} {path} with {answer.status_code}: {_detail(answer)}")
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Unknown(f"the platform answers {method} {path} with something else: {error}") from error


def _worker(view: WorkerView) -> Worker:
    gpu_memory = min((gpu.memory for gpu in view.gpus), default=0)
    return Worker(
        worker_id=view.worker_id,
        machine=view.labels[MACHINE_LABEL],
        state=view.state,
        total=Size(len(view.gpus), view.cpus, view.memory, gpu_memory),
        free=Size(len(view.free.gpus), view.free.cpu, view.free.memory, gpu_memory),
        busy=bool(view.attempts),
        reason=view.reason,
    )


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
