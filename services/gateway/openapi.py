"""One OpenAPI document out of everybody's own."""

import re
from collections.abc import Mapping
from typing import Any

from services.gateway.domain import GATEWAY
from services.gateway.readiness import PlatformReadiness
from trainwright.contracts.errors import Problem
from trainwright.runtime.http import PREFIX

Document = dict[str, Any]

TITLE = "Trainwright"
DESCRIPTION = f"""\
Model training as events: submit a task, watch it, fetch what came out.

Everything below `{PREFIX}` needs the header `Authorization: Bearer KEY`. Errors are `application/problem+json`
with a stable `code` and the fields that are wrong.

**Live metrics**: the WebSocket `{PREFIX}/tasks/{{task_id}}/monitor` takes
`{{"action": "subscribe", "metrics": ["loss"], "cursor": 0}}` and sends history, then what comes, as
`{{"step", "metrics", "attempt", "time", "seq"}}`; `seq` is the cursor to come back with. Browsers, which cannot
set a header, send the key as a sub-protocol: `new WebSocket(url, ["trainwright", "key." + KEY])`.
"""
PROBLEM = {
    "description": "Anything else",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
READINESS = {
    "description": "How all services are; 503 when one of them is down",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PlatformReadiness"}}},
}
OF_FASTAPI = frozenset({"HTTPValidationError", "ValidationError"})
METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options", "trace"})


def merged(documents: Mapping[str, Document]) -> Document:
    """Return one document of all services' paths and schemas."""
    paths: Document = {}
    schemas: Document = {}
    for shape in (Problem, PlatformReadiness):
        schemas[shape.__name__] = shape.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schemas[shape.__name__].pop("$defs", {}))
    for service, document in documents.items():
        own = {n: s for n, s in document.get("components", {}).get("schemas", {}).items() if n not in OF_FASTAPI}
        taken = {name for name, schema in own.items() if schemas.get(name, schema) != schema}
        schemas.update(
            {_renamed(name, taken, service): _moved(schema, taken, service) for name, schema in own.items()}
        )
        for path, item in document["paths"].items():
            if _belongs(path, service):
                paths.setdefault(path, _finished(_moved(item, taken, service), path))
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1", "description": DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
    }


def _belongs(path: str, service: str) -> bool:
    """Health is the gateway's to tell, and dead letters are asked for through it."""
    if service == GATEWAY:
        return not path.startswith(f"{PREFIX}/dead/{GATEWAY}")
    return path.startswith(PREFIX) and not path.startswith(f"{PREFIX}/dead/")


def _finished(item: Document, path: str) -> Document:
    open_to_all = path.startswith("/health/")
    for method, operation in item.items():
        if method in METHODS:
            # Bad input is a problem here, whatever FastAPI says by itself.
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = PROBLEM
            operation["security"] = [] if open_to_all else [{"key": []}]
            if path == "/health/ready":
                operation["responses"].update({"200": READINESS, "503": READINESS})
    return item


def _renamed(name: str, taken: set[str], service: str) -> str:
    return f"{service.title()}{name}" if name in taken else name


def _moved(value: Any, taken: set[str], service: str) -> Any:
    """Return a part of a document whose references follow the schemas that had to be renamed."""
    if isinstance(value, dict):
        return {key: _moved(item, taken, service) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, taken, service) for item in value]
    if isinstance(value, str) and (found := re.fullmatch(r"#/components/schemas/(.+)", value)):
        return f"#/components/schemas/{_renamed(found[1], taken, service)}"
    return value
