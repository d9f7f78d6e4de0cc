"""Webhooks: who is told of events by HTTP, and how that went. A secret is only in the answer that makes it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError

from trainwright.contracts.base import Contract, Name, Request, Timestamp, example

Url = Annotated[str, Field(min_length=1, max_length=2000, description="Where events are posted to; https.")]
Types = Annotated[list[str], Field(max_length=100, description="Only these events: `TaskReady` or its full name.")]
Topics = Annotated[
    list[str],
    Field(max_length=100, description="Only these topics; without, all but `pulse`, `metric` and `log`."),
]
Subject = Annotated[str | None, Field(max_length=200, description="Only what is about this task or worker.")]
Description = Annotated[str, Field(max_length=500, description="For people.")]
Secret = Annotated[
    SecretStr | None,
    Field(description="`whsec_` and 24 to 64 bytes in base64; made here when left out. Shown once."),
]

_MOMENT = TypeAdapter[datetime](Timestamp)


def _begins(value: Any) -> Any:
    if value in ("beginning", "now"):
        return value
    try:
        return _MOMENT.validate_python(value)
    except ValidationError:
        raise ValueError("is not `beginning`, `now`, or a moment like 2025-03-03T08:15:30Z") from None


Start = Annotated[Literal["beginning", "now"] | Timestamp, BeforeValidator(_begins)]
"""Where in the log something begins."""


class CreateWebhook(Request):
    """`POST /webhooks`."""

    model_config = example(url="https://hooks.example.com/trainwright", types=["TaskStatusChanged"])
    url: Url
    types: Types = []
    topics: Topics = []
    subject: Subject = None
    description: Description = ""
    active: bool = True
    secret: Secret = None
    start: Start = Field("now", description="`beginning`, `now`, or a moment: the first events to tell of.")


class ChangeWebhook(Request):
    """`PATCH /webhooks/{id}`: what is left out stays; a topic that is new begins with what comes."""

    model_config = example(active=False)
    url: Url | None = None
    types: Types | None = None
    topics: Topics | None = None
    subject: Subject = None
    description: Description | None = None
    active: bool | None = Field(None, description="false pauses; true goes on where it stopped.")


class RotateSecret(Request):
    """`POST /webhooks/{id}/rotate`."""

    model_config = example()
    secret: Secret = None


def _text(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


class ReplayWebhook(Request):
    """`POST /webhooks/{id}/replay`: tell again what was said after a place in the log."""

    model_config = example(start="2025-03-03T08:15:30Z")
    start: Annotated[str, BeforeValidator(_text)] = Field(
        min_length=1,
        max_length=4000,
        description="A moment, a position (`position` of a delivery, `id` of a streamed event), or `beginning`.",
    )


_WEBHOOK = {
    "webhook_id": "webhook-0123456789ab",
    "url": "https://hooks.example.com/trainwright",
    "types": ["TaskStatusChanged"],
    "description": "the team's channel",
    "active": True,
    "created_at": "2025-03-03T08:15:30.000000Z",
    "updated_at": "2025-03-03T08:15:30.000000Z",
    "position": "3f9a1c07@task:12",
    "last_delivered_at": "2025-03-03T08:16:03.000000Z",
}
_DELIVERY = {
    "delivery_id": "6a0f3c52-8b1d-5e0e-9a67-0a3f6c1b2d4e",
    "webhook_id": "webhook-0123456789ab",
    "kind": "event",
    "event_id": "9f2c6a34-7f6b-5f58-8a50-3f4f0a1b2c3d",
    "event_type": "trainwright.task.TaskStatusChanged.v1",
    "subject": "task-0123456789ab",
    "position": "3f9a1c07@task:12",
    "status": "retrying",
    "tries": 2,
    "code": 503,
    "error": "answered 503",
    "first_try_at": "2025-03-03T08:16:03.000000Z",
    "last_try_at": "2025-03-03T08:16:04.000000Z",
    "next_try_at": "2025-03-03T08:16:06.000000Z",
}


class WebhookView(Contract):
    """A webhook, and how it stands."""

    model_config = example(**_WEBHOOK)
    webhook_id: Name
    url: str
    types: list[str] = []
    topics: list[str] = []
    subject: str | None = None
    description: str = ""
    active: bool
    disabled_reason: str | None = Field(None, description="Why it was switched off, if nobody did.")
    created_at: Timestamp
    updated_at: Timestamp
    position: str | None = Field(None, description="What was told of, as a position in the log.")
    last_delivered_at: Timestamp | None = None
    failing_since: Timestamp | None = Field(None, description="Since when nothing was taken.")


class WebhookSecret(WebhookView):
    """A webhook and its new secret: the only answer that shows it."""

    model_config = example(**_WEBHOOK, secret="whsec_…")
    secret: str = Field(description="What signatures are made with; kept by the receiver, not shown again.")


class WebhookList(Contract):
    """`GET /webhooks`, oldest first."""

    model_config = example(webhooks=[_WEBHOOK])
    webhooks: list[WebhookView]


class DeliveryStatus(StrEnum):
    """How a delivery stands."""

    DELIVERED = "delivered"
    RETRYING = "retrying"
    FAILED = "failed"


class Delivery(Contract):
    """One event told to one webhook; ``tries`` and what follows are about all tries so far."""

    model_config = example(**_DELIVERY)
    delivery_id: Name
    webhook_id: Name
    kind: Literal["event", "gap", "test"] = "event"
    event_id: str = Field(description="The header `webhook-id`: the event's own id.")
    event_type: str
    subject: str | None = None
    position: str | None = Field(None, description="A replay from here begins with this event.")
    status: DeliveryStatus
    tries: int = 0
    code: int | None = Field(None, description="Status of the last answer, if there was one.")
    error: str | None = Field(None, description="What was wrong with the last try.")
    first_try_at: Timestamp
    last_try_at: Timestamp
    next_try_at: Timestamp | None = None


class DeliveryPage(Contract):
    """`GET /webhooks/{id}/deliveries`, newest first; the last thousand are kept."""

    model_config = example(deliveries=[_DELIVERY], next_cursor=None)
    deliveries: list[Delivery]
    next_cursor: str | None = None
