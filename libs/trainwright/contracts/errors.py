"""The error tree. Each error knows its HTTP status, its stable code, and whether a retry may help.

TrainwrightError
├── InvalidInput        422  invalid_input
├── Unauthorised        401  unauthorised
├── NotFound            404  not_found
├── Conflict            409  conflict
│   ├── IllegalTransition    illegal_transition
│   ├── VersionConflict      version_conflict     (retry)
│   └── ResourceLimitError   resource_limit
├── TooLarge            413  too_large
├── NotJson             415  unsupported_media_type
└── Unavailable         503  unavailable          (retry)
    ├── StoreUnavailable     store_unavailable
    │   ├── StoreBusy        store_busy           (at once)
    │   └── LeaseLost        lease_lost
    └── OutboxFull           outbox_full
"""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    Contract,
    example,
)


class FieldError(Contract):
    """One wrong field: where it is and what would be right."""

    path: str = Field(description="Dotted path of the field, e.g. `config.parameters.horizon`.")
    message: str = Field(description="What is wrong, and the fix.")


class Problem(Contract):
    """An error answer (RFC 9457, ``application/problem+json``)."""

    model_config = example(
        title="Invalid input",
        status=422,
        detail="config.paramters: unknown key 'paramters'; did you mean 'parameters'?",
        code="invalid_input",
        errors=[
            {"path": "config.paramters", "message": "unknown key 'paramters'; did you mean 'parameters'?"},
        ],
    )
    type: str = "about:blank"
    title: str = Field(description="The kind of error; for people.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="This error: the value, and the fix; for people.")
    code: str = Field(description="Stable code of the kind; for programs.")
    errors: list[FieldError] = Field(default=[], description="The fields that are wrong.")


class TrainwrightError(Exception):
    """The root of everything that Trainwright raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []

    def problem(self) -> Problem:
        """Return the error as a problem document."""
        return Problem(
            title=self.title, status=self.status, detail=self.detail, code=self.code, errors=self.errors
        )


class InvalidInput(TrainwrightError):
    """What was sent does not fit; ``errors`` names each field."""

    status, code, title = 422, "invalid_input", "Invalid input"


class Unauthorised(TrainwrightError):
    """No key, or a key that is not known."""

    status, code, title = 401, "unauthorised", "Unauthorised"


class NotFound(TrainwrightError):
    """The thing named does not exist."""

    status, code, title = 404, "not_found", "Not found"


class Conflict(TrainwrightError):
    """The request does not fit the thing's present state."""

    status, code, title = 409, "conflict", "Conflict"


class IllegalTransition(Conflict):
    """A task cannot go from its status to the one asked for."""

    code, title = "illegal_transition", "Illegal transition"


class VersionConflict(Conflict):
    """Somebody else wrote the document in between."""

    code, title, retryable = "version_conflict", "Version conflict", True


class ResourceLimitError(Conflict):
    """More is asked for than a quota allows, or than there is."""

    code, title = "resource_limit", "Over a limit of resources"


class TooLarge(TrainwrightError):
    """A body or a document is over its limit."""

    status, code, title = 413, "too_large", "Too large"


class NotJson(TrainwrightError):
    """A body that does not say to be JSON, or what else the route takes."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Damaged(TrainwrightError):
    """What is stored does not match its hash."""

    status, code, title = 500, "damaged", "Damaged content"


class Unavailable(TrainwrightError):
    """A part is not there at present; the same request may succeed later."""

    status, code, title, retryable = 503, "unavailable", "Unavailable", True


class StoreUnavailable(Unavailable):
    """The store cannot be read or written at present."""

    code, title = "store_unavailable", "Store unavailable"


class StoreBusy(StoreUnavailable):
    """Somebody else wrote the same thing at the same moment; nothing was changed, a repeat may succeed at once."""

    code, title = "store_busy", "Store busy"


class LeaseLost(StoreUnavailable):
    """Another process does now what this one was about to do; nothing was changed."""

    code, title = "lease_lost", "Lease lost"


class OutboxFull(Unavailable):
    """Too many events wait for Kafka; accepting more would risk losing them."""

    code, title = "outbox_full", "Too many unsent events"
