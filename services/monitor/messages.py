"""What is said on a stream: the client's wishes and the server's lines."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, RootModel, ValidationError

from services.monitor.domain import as_json
from trainwright.contracts.base import Name, Request, iso
from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.runtime.http import field_error
from trainwright.storage.series import AttemptState, Logged

LONGEST = 64 * 1024


class Subscribe(Request):
    """Send these metrics (all when none are named), after a cursor or from the beginning, then as they come."""

    action: Literal["subscribe"]
    metrics: list[Name] | None = Field(None, max_length=1000)
    cursor: int | None = Field(None, ge=0, description="The `seq` of the last line that was seen.")


class Unsubscribe(Request):
    """Send these metrics (none at all when none are named) no more."""

    action: Literal["unsubscribe"]
    metrics: list[Name] | None = Field(None, max_length=1000)


Wish = Subscribe | Unsubscribe


class _Message(RootModel[Wish]):
    root: Wish = Field(discriminator="action")


def read_wish(text: str) -> Wish:
    """Return what a client asks for.

    Raises:
        InvalidInput: It is not one of the known messages.
    """
    if len(text) > LONGEST:
        raise InvalidInput(f"a message has at most {LONGEST} characters", [])
    try:
        return _Message.model_validate_json(text).root
    except ValidationError as error:
        fields = [_without_tag(field_error(detail)) for detail in error.errors(include_url=False)]
        raise InvalidInput("; ".join(f"{field.path}: {field.message}" for field in fields[:3]), fields) from None


def _without_tag(field: FieldError) -> FieldError:
    path = field.path.removeprefix("subscribe.").removeprefix("unsubscribe.")
    return FieldError(path="action" if path == "body" else path, message=field.message)


def record_line(record: Logged) -> dict[str, Any]:
    """Return one call of ``run.log`` as a line."""
    return {
        "step": record.step,
        "metrics": as_json(record.values),
        "attempt": record.attempt,
        "time": _moment(record.time),
        "seq": record.seq,
    }


def rewind_line(state: AttemptState) -> dict[str, Any]:
    """Say that steps above ``step`` of attempts before this one count no more (0: none of their steps)."""
    return {"event": "rewind", "attempt": state.attempt, "step": state.resume_step, "seq": state.resumed_at}


def gap_line(after: int, to: int) -> dict[str, Any]:
    """Say that lines after one cursor up to another were left out for a slow reader; the history has them."""
    return {"event": "gap", "from": after, "seq": to}


def error_line(error: InvalidInput) -> dict[str, Any]:
    """Say what was wrong with a message; the stream goes on."""
    fields = [field.model_dump() for field in error.errors]
    return {"event": "error", "code": error.code, "detail": error.detail, "errors": fields}


def _moment(seconds: float) -> str | None:
    try:
        return iso(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return None
