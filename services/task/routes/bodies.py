"""Documents in requests, as JSON or as YAML itself; versions in headers."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from services.task.handlers import Source, read_source
from services.task.submission import read_config, refuse
from trainwright.contracts.configuration import CreateConfiguration, ReplaceConfiguration, ValidateConfiguration
from trainwright.contracts.errors import FieldError, InvalidInput, TooLarge
from trainwright.documents.reading import NotADocument
from trainwright.storage.document import Document

YAML = "application/yaml"
YAMLS = frozenset({YAML, "application/x-yaml", "text/yaml", "text/x-yaml"})
IfMatch = Annotated[
    str | None, Header(max_length=50, description='The version that is to be replaced, such as `"3"`; else 409.')
]


async def _beside_yaml(
    name: Annotated[str | None, Query(description="With YAML as the body: the configuration's name.")] = None,
    comment: Annotated[str | None, Query(description="With YAML as the body: what this version is for.")] = None,
) -> Document:
    said = {"name": name, "comment": comment}
    return {key: value for key, value in said.items() if value is not None}


BesideYaml = Annotated[Document, Depends(_beside_yaml)]
"""What of a model stands in the query, when the body is the document itself."""
B = TypeVar("B", bound=BaseModel)
_Sent = CreateConfiguration | ReplaceConfiguration | ValidateConfiguration


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that may be JSON of a model, or a document in YAML."""
    content = {
        "application/json": {"schema": model.model_json_schema()},
        YAML: {"schema": {"type": "string", "description": "The task document itself."}},
    }
    return {"requestBody": {"content": content, "required": True}}


async def sent(request: Request, model: type[B], limit: int, beside: Document | None = None) -> B:
    """Return a request's body: a model as JSON, or a document in YAML and what is said ``beside`` it.

    Raises:
        RequestValidationError: It is not what the model says.
        TooLarge: It is over the limit.
    """
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > 8 * limit:
            raise TooLarge(f"the body has more than {8 * limit} bytes")
    try:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in YAMLS:
            return model.model_validate({**(beside or {}), "text": _decoded(raw), "format": "yaml"})
        return model.model_validate_json(raw)
    except ValidationError as error:
        details = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(details) from None


def source_of(body: _Sent, limit: int) -> Source:
    """Return the document of a body.

    Raises:
        InvalidInput: Its text is no document.
        TooLarge: It is over the limit.
    """
    if body.text is None:
        return Source(dict(body.config or {}))
    if (size := len(body.text.encode())) > limit:
        raise TooLarge(f"the document has {size} bytes; {limit} are allowed: put data in files")
    try:
        return read_source(body.text, body.format)
    except NotADocument as error:
        wrong = _place(error)
        raise InvalidInput(f"the document cannot be read: {wrong.message}", [wrong]) from None


def valid(source: Source, prefix: str, limit: int) -> Source:
    """Return a document that is good, its files aside.

    Raises:
        InvalidInput: A field is wrong; every one is named.
        TooLarge: It is over the limit.
    """
    config, problems = read_config(source.config, prefix)
    refuse(problems)
    assert config is not None  # without problems it could be read
    if (size := len(config.model_dump_json())) > limit:
        raise TooLarge(f"the document has {size} bytes; {limit} are allowed: put data in files")
    return source


def prefix_of(body: _Sent) -> str:
    """Return what stands before a field's path: a document as text is the whole of what people see."""
    return "config." if body.text is None else ""


def expected_version(if_match: str | None, in_body: int | None) -> int | None:
    """Return the version that is to be replaced, from a header like `"3"` or from the body.

    Raises:
        InvalidInput: They are no version, or two.
    """
    if if_match is None or if_match.strip() == "*":
        return in_body
    text = if_match.strip().removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit()):
        error = FieldError(path="If-Match", message=f'give one version, such as "3" (got {if_match[:40]!r})')
        raise InvalidInput(f"If-Match: {error.message}", [error])
    if in_body is not None and in_body != int(text):
        error = FieldError(path="expected_version", message=f"{in_body} is not what If-Match says ({text})")
        raise InvalidInput(error.message, [error])
    return int(text)


def not_text(error: NotADocument) -> Document:
    """Return how a text that is no document is told by a validation."""
    return _place(error).model_dump()


def _place(error: NotADocument) -> FieldError:
    at = f"line {error.line}, column {error.column}: " if error.line else ""
    return FieldError(path="text", message=f"{at}{error.reason}")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = FieldError(path="body", message=f"not UTF-8 at byte {error.start}")
        raise InvalidInput(f"body: {wrong.message}", [wrong]) from None
