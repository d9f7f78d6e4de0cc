"""What every contract is made of: frozen models, events, and how a reader tells a repeat from news.

Nouns live in files of their own; the topics they travel on are in ``topics.py``.
"""

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError


def _utc(value: datetime) -> datetime:
    if value.tzinfo is UTC:
        return value
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this moment is outside of the calendar in UTC") from None


def iso(value: datetime) -> str:
    """Return UTC time as ISO-8601 with microseconds and ``Z``: fixed width, so it sorts as text."""
    return _written(_utc(value))


@lru_cache(maxsize=4096)  # a document is written again and again, and most of its moments stay
def _written(utc: datetime) -> str:
    return utc.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


Timestamp = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(iso, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A moment in UTC; JSON is ISO-8601 with ``Z``."""

NOT_FINITE = ("NaN", "Infinity", "-Infinity")
LARGEST = 2**63 - 1
DEEPEST = 64


def _finite_or_text(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


Number = Annotated[
    float,
    PlainSerializer(_finite_or_text, return_type=float | str, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}]}),
]
"""A number that may be NaN or infinite; as JSON has no such number, they are the texts of ``NOT_FINITE``."""


def _storable(value: Any, depth: int = 1) -> Any:
    if isinstance(value, float):
        return _finite_or_text(value)
    if isinstance(value, bool | str | None):
        return _text(value) if isinstance(value, str) else value
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise ValueError(f"{str(value)[:30]} is too large a number; write it as text")
        return value
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if isinstance(value, dict):
        return {_text(str(key)): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item, depth + 1) for item in value]
    if isinstance(value, date):  # YAML reads a plain date as one
        return value.isoformat()
    raise ValueError(f"{type(value).__name__} is not a JSON value; write it as text")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{value[:80]!a} holds half a character (a lone surrogate)") from None
    return value


def _not_finite(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[InitErrorDetails]:
    if isinstance(value, dict | list) and len(place) <= DEEPEST:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(item, (*place, key))
    elif isinstance(value, float) and not math.isfinite(value):
        said = "not a finite number, or too large for one; write it as text if it is meant"
        yield InitErrorDetails(type=PydanticCustomError("finite_number", said), loc=place, input=value)


def _finite(given: dict[str, Any]) -> dict[str, Any]:
    if wrong := list(_not_finite(given)):
        raise ValidationError.from_exception_data("GivenObject", wrong)
    return given


JsonObject = Annotated[dict[str, Any], AfterValidator(_storable)]
"""Any JSON object that every store and every JSON reader can hold: no huge number, nothing endlessly deep."""

GivenObject = Annotated[dict[str, Any], AfterValidator(_finite), AfterValidator(_storable)]
"""The same as people send it: a number that is not finite (`1e400` is none) is a slip, and not made text."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, in hex.")]

TaskId = Annotated[str, Field(description="The task: `task-` and 12 hex digits.")]
WorkerId = Annotated[str, Field(description="The worker: `worker-` and 12 hex digits; kept over restarts.")]
Incarnation = Annotated[str, Field(description="One life of the worker's agent; another one at each start.")]
AttemptNumber = Annotated[int, Field(description="Number of the attempt; a task's attempts count from 1.")]
Version = Annotated[int, Field(description="Version of this document; grows with every change.")]
LatestMetrics = Annotated[dict[str, Number], Field(description="Last value of each metric that was logged.")]
TotalSteps = Annotated[int | None, Field(description="Steps that the run means to take, if it said so.")]


def example(**fields: Any) -> ConfigDict:
    """Return a model's configuration that shows people an example of it."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Contract(BaseModel):
    """A shape that crosses a process border; unknown fields are ignored: additions stay compatible."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word that is most like this one, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


class Request(BaseModel):
    """A shape that a person sends; unknown fields are refused, because they are nearly always a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                error.title, [cls._explained(e) for e in error.errors(include_url=False)]
            ) from None

    @classmethod
    def _explained(cls, error: ErrorDetails) -> InitErrorDetails:
        message, loc = error["msg"], error["loc"]
        if error["type"] == "extra_forbidden" and len(loc) == 1:
            message = f"unknown key {loc[0]!r}{nearest(str(loc[0]), cls.model_fields)}"
        if error["type"] in ("enum", "literal_error") and "expected" in error.get("ctx", {}):
            message += nearest(str(error["input"]), re.findall(r"'([^']+)'", error["ctx"]["expected"]))
        kind = PydanticCustomError(error["type"], "{message}", {"message": message})
        return InitErrorDetails(type=kind, loc=loc, input=error["input"])


def known_only(model: type[Request], data: Any) -> Any:
    """Return what was sent without the fields that this version of a request does not know.

    For requests inside events: who reads them must not stumble over what a later version added.
    """
    if not isinstance(data, dict):
        return data
    known: dict[str, Any] = {}
    for name, inner in _requests_in(model).items():
        if name in data:
            known[name] = data[name] if inner is None else _known_value(*inner, data[name])
    return known


def _known_value(kind: type[Request], is_dict: bool, value: Any) -> Any:
    if is_dict and isinstance(value, dict):
        return {key: known_only(kind, item) for key, item in value.items()}
    return [known_only(kind, item) for item in value] if isinstance(value, list) else known_only(kind, value)


@lru_cache
def _requests_in(model: type[Request]) -> dict[str, tuple[type[Request], bool] | None]:
    """Return a model's fields, each with the request that it, its list or its dict holds, if it holds one."""
    return {name: _request_in(field.annotation) for name, field in model.model_fields.items()}


def _request_in(annotation: Any, is_dict: bool = False) -> tuple[type[Request], bool] | None:
    if get_origin(annotation) is dict:
        return _request_in(get_args(annotation)[1], True)
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Request):
            return kind, is_dict
    return None


@dataclass(frozen=True, slots=True)
class Newer:
    """Apply an event only if ``order`` is above the last one applied for ``subject``."""

    subject: str
    order: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Once:
    """Apply an event only if ``key`` has not been applied before."""

    key: str


Guard = Newer | Once | None


class Event(Contract):
    """A fact (or, on the command topic, a wish) that travels on the log.

    Subclasses set ``noun`` and say which aggregate they are about (``subject``, the record's key) and how a
    repeat is recognised (``guard``; None for superseded kinds whose handler only keeps the newest).
    """

    noun: ClassVar[str]
    major: ClassVar[int] = 1

    @classmethod
    def type_name(cls) -> str:
        """Return the CloudEvents type, e.g. ``trainwright.task.TaskReady.v1``."""
        return f"trainwright.{cls.noun}.{cls.__name__}.v{cls.major}"

    @property
    def subject(self) -> str:
        """Return the record's key."""
        raise NotImplementedError

    @property
    def guard(self) -> Guard:
        """Return how a reader recognises a repeat of this event."""
        return None

    @property
    def aggregate_version(self) -> int | None:
        """Return the version of the owner's document, when the event carries one."""
        return None

    @property
    def attempt_number(self) -> int | None:
        """Return the attempt that the event is about, when there is one."""
        return None
