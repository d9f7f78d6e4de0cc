"""A service's HTTP edge: problem+json for every error, health without a key, the internal token, dead letters."""

import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, get_origin

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from trainwright.contracts.base import nearest
from trainwright.contracts.errors import FieldError, InvalidInput, NotJson, Problem, TrainwrightError, Unauthorised
from trainwright.runtime.dead import dead_routes
from trainwright.runtime.envelope import Cause
from trainwright.runtime.health import Health
from trainwright.runtime.service import Service
from trainwright.runtime.telemetry.edge import Observed, says_route
from trainwright.runtime.telemetry.scraping import Scrape
from trainwright.runtime.telemetry.tracing import TRACE, new_traceparent

logger = logging.getLogger(__name__)

PREFIX = "/api/v1/training"
INTERNAL_HEADER = "x-trainwright-internal"
ACTOR_HEADER = "x-trainwright-actor"
PROBLEM_JSON = "application/problem+json"


class Caller:
    """Who asks, and what follows from it: ``actor`` for histories, ``cause`` for events."""

    def __init__(self, request: Request) -> None:
        self.actor = request.headers.get(ACTOR_HEADER, "unknown")
        self.cause = Cause(str(uuid.uuid4()), TRACE.get() or new_traceparent())


async def _caller(request: Request) -> Caller:
    # FastAPI calls what is not async, a class among it, on a thread of its pool: for nothing, and each hop waits.
    return Caller(request)


Calling = Annotated[Caller, Depends(_caller)]


def build_app(service: Service, health: Health, scrape: Scrape, *, token: SecretStr) -> ASGIApp:
    """Return a service's app: its routes under the API's prefix, health and figures at the root."""
    app = bare_app(service.name, health)
    for router in (service.router, dead_routes(service)):
        if router is not None:
            app.include_router(router, prefix=PREFIX, dependencies=[Depends(_only_known_parameters)])
    inner = says_route(app, PREFIX)
    edge = service.edge(inner) if service.edge is not None else internal_only(inner, token)
    # Only behind the token does a request's trace come from us.
    return Observed(edge, service.name, scrape, continues=service.edge is None)


async def _only_known_parameters(connection: HTTPConnection) -> None:
    """Refuse a query parameter that the route does not have: a filter that is misspelt would let everything pass.

    One that is given twice too, where the route takes one value: the last would win without a word.

    Raises:
        InvalidInput: It is not known here, says the nearest that is; or it is given twice.
    """
    if not connection.query_params or connection.scope["type"] != "http":
        return
    known = {field.alias: field for field in get_flat_params(connection.scope["route"].dependant)}
    wrong = []
    for name in connection.query_params:
        if name not in known:
            wrong.append(FieldError(path=name, message=f"no parameter of this route{nearest(name, known)}"))
            continue
        values = connection.query_params.getlist(name)
        if len(values) > 1 and get_origin(known[name].field_info.annotation) is not list:
            given = " and ".join(repr(value[:80]) for value in values[:2])
            wrong.append(FieldError(path=name, message=f"takes one value (got {given}); give it once"))
    if wrong:
        raise InvalidInput("; ".join(f"{one.path}: {one.message}" for one in wrong[:3]), wrong)


def bare_app(name: str, health: Health) -> FastAPI:
    """Return an app that answers health, and every error as a problem."""
    # Requests are watched before they come here (telemetry/edge.py): twice would be two spans for one.
    watches: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(title=f"Trainwright {name}", docs_url=None, redoc_url=None, telemetry=watches)
    install_problems(app)
    app.include_router(health_routes(health))
    return app


def health_routes(health: Health) -> APIRouter:
    """Return liveness and readiness."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="The process runs")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/health/ready", summary="The service can do its work")
    async def ready(response: Response) -> dict[str, Any]:
        readiness = await health.ready()
        response.status_code = 503 if readiness.status == "down" else 200
        return readiness.model_dump(mode="json")

    return router


def internal_only(app: ASGIApp, token: SecretStr) -> ASGIApp:
    """Return an app that answers only who carries the internal token; health is open."""
    expected = token.get_secret_value()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not scope["path"].startswith("/health/"):
            given = dict(scope["headers"]).get(INTERNAL_HEADER.encode(), b"").decode("latin-1")
            if not expected or not secrets.compare_digest(given.encode(), expected.encode()):
                error = Unauthorised(
                    "this service answers the gateway only; call the gateway"
                    " (or give both the same TRAINWRIGHT_INTERNAL_TOKEN)"
                )
                await refuse(error, scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


async def refuse(error: TrainwrightError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an error from outside of FastAPI; a WebSocket's handshake too, where the server can."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 4000 + error.status, "reason": error.detail[:120]})
    else:
        await problem_response(error.problem())(scope, receive, send)


def problem_response(problem: Problem) -> JSONResponse:
    """Return a problem as an answer."""
    headers = {"Retry-After": "5"} if problem.status == 503 else None
    headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else headers
    return JSONResponse(problem.model_dump(mode="json"), problem.status, media_type=PROBLEM_JSON, headers=headers)


def install_problems(app: FastAPI) -> None:
    """Make an app answer every error as a problem."""
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        TrainwrightError: _on_ours,
        RequestValidationError: _on_validation,
        HTTPException: _on_http,
        Exception: _on_bug,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _on_ours(_: Request, error: TrainwrightError) -> Response:
    return problem_response(error.problem())


async def _on_validation(request: Request, error: RequestValidationError) -> Response:
    fields = [field_error(detail) for detail in error.errors()]
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if [field.path for field in fields] == ["body"] and not kind.endswith("json"):
        said = f"the header says Content-Type: {kind}" if kind else "there is no header Content-Type"
        fields = [FieldError(path="body", message=f"{said}; send JSON with Content-Type: application/json")]
        if error.errors()[0]["type"] != "missing":
            return problem_response(NotJson(f"body: {fields[0].message}", fields).problem())
    summary = "; ".join(f"{field.path}: {field.message}" for field in fields[:3])
    return problem_response(InvalidInput(summary, fields).problem())


def field_error(detail: Any) -> FieldError:
    """Return one of pydantic's errors as ours: the path without where it came from, the value in short."""
    loc = [str(part) for part in detail["loc"] if part != "[key]"]
    if loc and loc[0] in ("body", "query", "path", "header"):
        loc = loc[1:]
    if detail["type"] == "json_invalid":
        position, reason = ".".join(loc), detail.get("ctx", {}).get("error", "")
        place = f" at character {position}" if position else ""
        return FieldError(path="body", message=f"not JSON{place}: {reason}")
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    if isinstance(value, str | int | float | bool) and detail["type"] != "extra_forbidden":
        message = f"{message} (got {str(value)[:80]!r})"
    return FieldError(path=".".join(loc) or "body", message=message)


async def _on_http(request: Request, error: HTTPException) -> Response:
    codes = {404: "not_found", 405: "method_not_allowed"}
    detail = str(error.detail)
    if error.status_code == 400 and "parsing the body" in detail:
        wrong = FieldError(path="body", message="too deep to read, or a number has too many digits")
        return problem_response(InvalidInput(f"{wrong.path}: {wrong.message}", [wrong]).problem())
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
        detail = f"{request.method} is not for {request.url.path}; it takes {headers['Allow']}"
    elif error.status_code in codes:
        detail = f"{request.method} {request.url.path}: {detail}"
    problem = Problem(
        title=str(error.detail),
        status=error.status_code,
        detail=detail,
        code=codes.get(error.status_code, "http_error"),
    )
    response = problem_response(problem)
    response.headers.update(headers)
    return response


def _allowed(request: Request) -> list[str]:
    """Return the methods that some route takes at a request's path; the framework names those of the first."""
    routes = request.app.router.routes
    scopes = ({**request.scope, "method": method} for method in ("GET", "POST", "PUT", "PATCH", "DELETE"))
    return [scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _on_bug(request: Request, error: Exception) -> Response:
    logger.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(TrainwrightError("something broke here; the service's log says what").problem())
