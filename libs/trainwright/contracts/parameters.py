"""Changes of parameters while a task runs: what was asked for, by whom and why, and what became of it."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from trainwright.contracts.base import Contract, JsonObject, Sha256, TaskId, Timestamp, example
from trainwright.contracts.task_config import HotRule

_CHANGE = {
    "revision": 1,
    "changes": {"learning_rate": {"old": 0.004, "new": 0.001}},
    "actor": "admin",
    "reason": "the loss has stopped falling",
    "at": "2025-03-03T08:20:11.500000Z",
    "state": "applied",
    "attempt": 1,
    "step": 141,
    "config_hash": "8b1a9953c4611296a827abf8c47804d7e6c49c6b97a5f2d1c2bb0a9a3f6d1e20",
}


class ChangedValue(Contract):
    """A parameter that was changed."""

    old: Any = Field(None, description="Its value before; null when it had none.")
    new: Any = Field(None, description="Its value from then on.")


class ChangeState(StrEnum):
    """What became of a change of parameters."""

    REQUESTED = "requested"
    APPLIED = "applied"
    REJECTED = "rejected"


class ParameterChange(Contract):
    """One revision of a task's parameters."""

    model_config = example(**_CHANGE)

    revision: int = Field(ge=1, description="Counts the changes of the task.")
    changes: dict[str, ChangedValue] = Field(description="Parameters by name.")
    actor: str = Field("", description="Who asked for it: the name of an API key.")
    confirmed_by: str | None = Field(None, description="Who confirmed it, where that was needed.")
    reason: str = Field("", description="Why; for people.")
    at: Timestamp = Field(description="When it was asked for.")
    state: ChangeState = ChangeState.REQUESTED
    attempt: int | None = Field(None, description="The attempt that answered.")
    step: int | None = Field(None, description="The first step that it holds for; null until a run has told it.")
    error: str | None = Field(None, description="Why it was rejected.")
    config_hash: Sha256 | None = Field(None, description="Of the parameters with this change, as canonical JSON.")


class ParameterAnswer(Contract):
    """What a run did about one revision."""

    revision: int = Field(ge=1, description="The revision.")
    step: int | None = Field(None, description="The first step that it holds for; null when it was rejected.")
    error: str | None = Field(None, description="Why it was rejected; the run goes on as before.")


class ParametersAnswer(Contract):
    """The answer to `PATCH /tasks/{id}/parameters`."""

    model_config = example(
        task_id="task-3f9c1a7be042",
        state="requested",
        revision=1,
        changes={"learning_rate": {"old": 0.004, "new": 0.001}},
        message="goes to the run, which takes it over at its next step",
    )
    task_id: TaskId
    state: str = Field(description="`requested`, `applied`, `rejected`, `unchanged`, `confirmation_needed`.")
    revision: int = Field(description="The task's newest revision.")
    changes: dict[str, ChangedValue] = Field(default={}, description="Parameters by name.")
    step: int | None = Field(None, description="The first step that it holds for.")
    message: str = Field("", description="What happens next; for people.")
    confirm: str | None = Field(None, description="Send it back to confirm; or another key sends the same.")
    expires_at: Timestamp | None = Field(None, description="Until when it can be confirmed.")


class ParameterLog(Contract):
    """`GET /tasks/{id}/parameters`: what holds, what may change, and every change so far."""

    model_config = example(
        task_id="task-3f9c1a7be042",
        parameters={"learning_rate": 0.001},
        hot={"learning_rate": {}},
        config_hash=_CHANGE["config_hash"],
        revision=1,
        applied_revision=1,
        changes=[_CHANGE],
    )
    task_id: TaskId
    parameters: JsonObject = Field(description="With every repair and change.")
    hot: dict[str, HotRule] = Field(description="Those that may change while it runs.")
    config_hash: Sha256
    revision: int = Field(description="The newest revision; 0 when nothing was changed.")
    applied_revision: int = Field(description="The newest one that a run has taken over.")
    changes: list[ParameterChange] = Field(description="Oldest first.")
