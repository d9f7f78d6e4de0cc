"""The questions that a worker asks of its own store, in the domain's words."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.trainer_worker.domain import LIVE, Attempt, AttemptState, Read
from trainwright.contracts.base import iso
from trainwright.contracts.worker import AttemptRef, WorkerDocument
from trainwright.storage.document import Collection, In, Range, Reader, Transaction, Where

ATTEMPTS = Collection("attempts", indexes=("state", "task_id", "reported_at"))
READS = Collection("reads")
FACTS = Collection("facts")
COLLECTIONS = (ATTEMPTS, READS, FACTS)

_WORKER = "worker"
_POSITION = "commands"
_LIVE: Where = {"state": In(tuple(state.value for state in LIVE))}


async def attempt_of(reader: Reader, key: str) -> Attempt | None:
    """Return an attempt."""
    found = await reader.get(ATTEMPTS.name, key)
    return Attempt.model_validate(found) if found is not None else None


async def put_attempt(tx: Transaction, attempt: Attempt) -> None:
    """Keep an attempt."""
    await tx.put(ATTEMPTS.name, attempt.key, attempt.model_dump(mode="json"))


async def live_attempts(reader: Reader) -> list[Attempt]:
    """Return the attempts that are not over for this worker, oldest first."""
    page = await reader.find(ATTEMPTS.name, _LIVE, limit=10_000)
    return sorted(map(Attempt.model_validate, page.items), key=lambda attempt: attempt.received_at)


async def live_refs(reader: Reader) -> list[AttemptRef]:
    """Return the names of the attempts that are not over for this worker."""
    return _refs((await reader.find(ATTEMPTS.name, _LIVE, limit=10_000)).items)


async def attempts_of_task(reader: Reader, task_id: str) -> list[Attempt]:
    """Return every attempt of a task that is still known here."""
    page = await reader.find(ATTEMPTS.name, {"task_id": task_id}, limit=1000)
    return [Attempt.model_validate(item) for item in page.items]


async def reported_since(reader: Reader, moment: datetime) -> list[AttemptRef]:
    """Return the names of the attempts whose ending was reported after a moment."""
    where: Where = {"reported_at": Range(gt=iso(moment)), "state": AttemptState.REPORTED.value}
    return _refs((await reader.find(ATTEMPTS.name, where, sort="reported_at", limit=1000)).items)


async def over_before(reader: Reader, moment: datetime) -> list[Attempt]:
    """Return the attempts, reported or lost, that were over before a moment."""
    page = await reader.find(ATTEMPTS.name, {"reported_at": Range(lt=iso(moment))}, sort="reported_at", limit=200)
    return [Attempt.model_validate(item) for item in page.items]


def _refs(found: Sequence[Mapping[str, Any]]) -> list[AttemptRef]:
    return [AttemptRef(task_id=one["task_id"], attempt=one["attempt"]) for one in found]


async def forget_attempt(tx: Transaction, key: str) -> None:
    """Remove an attempt and how far it was read."""
    await tx.delete(ATTEMPTS.name, key)
    await tx.delete(READS.name, key)


async def read_of(reader: Reader, key: str) -> Read:
    """Return how far an attempt's files have been published."""
    found = await reader.get(READS.name, key)
    return Read.model_validate(found) if found is not None else Read()


async def put_read(tx: Transaction, key: str, read: Read) -> None:
    """Keep how far an attempt's files have been published."""
    await tx.put(READS.name, key, read.model_dump(mode="json"))


async def worker_of(reader: Reader) -> WorkerDocument | None:
    """Return this worker's document as it was last published."""
    found = await reader.get(FACTS.name, _WORKER)
    return WorkerDocument.model_validate(found) if found is not None else None


async def put_worker(tx: Transaction, worker: WorkerDocument) -> None:
    """Keep this worker's document."""
    await tx.put(FACTS.name, _WORKER, worker.model_dump(mode="json"))


async def command_position(reader: Reader) -> dict[str, Any] | None:
    """Return where reading commands stopped: `log` (the topic's identity), `partition`, `offset`."""
    return await reader.get(FACTS.name, _POSITION)


async def put_command_position(tx: Transaction, log: str, partition: int, offset: int) -> None:
    """Keep where reading commands goes on."""
    await tx.put(FACTS.name, _POSITION, {"log": log, "partition": partition, "offset": offset})
