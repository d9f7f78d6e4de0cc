"""The audit of changed parameters, and changes that wait for a confirmation."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from trainwright.contracts.base import iso
from trainwright.contracts.parameters import ParameterChange
from trainwright.storage.document import Collection, Reader, Transaction

PARAMETERS = Collection("parameters", indexes=("task_id",))
CONFIRMATIONS = Collection("confirmations", indexes=("task_id", "expires_at"))
MANY = 10_000
OPEN = 100
"""Changes of one task that are looked at for one to be confirmed."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A change of parameters that has to be confirmed: what was asked for, by whom, on top of what."""

    token: str
    task_id: str
    values: dict[str, Any]
    before: str
    """Content hash of the parameters that it was asked for."""
    actor: str
    reason: str
    expires_at: str


async def save_changes(
    tx: Transaction, task_id: str, before: list[dict[str, Any]], after: list[ParameterChange]
) -> None:
    """Write what is new of a task's changes into the audit."""
    known = {one["revision"]: one for one in before}
    for one in after:
        row = one.model_dump(mode="json")
        if known.get(one.revision) != row:
            await tx.put(PARAMETERS.name, f"{task_id}/{one.revision:08d}", {"task_id": task_id, **row})


async def parameter_changes_of(reader: Reader, task_id: str) -> list[ParameterChange]:
    """Return every change of a task's parameters, oldest first."""
    page = await reader.find(PARAMETERS.name, {"task_id": task_id}, limit=MANY)
    return [ParameterChange.model_validate(item) for item in page.items]


async def keep_confirmation(tx: Transaction, confirmation: Confirmation) -> None:
    """Keep a change until it is confirmed or its time is over."""
    await tx.put(CONFIRMATIONS.name, confirmation.token, asdict(confirmation))


async def confirmations_of(reader: Reader, task_id: str, now: datetime) -> list[Confirmation]:
    """Return the changes of a task that may still be confirmed."""
    page = await reader.find(CONFIRMATIONS.name, {"task_id": task_id}, limit=OPEN)
    return [Confirmation(**item) for item in page.items if item["expires_at"] > iso(now)]


async def drop_confirmation(tx: Transaction, token: str) -> None:
    """Forget a change that was confirmed."""
    await tx.delete(CONFIRMATIONS.name, token)
