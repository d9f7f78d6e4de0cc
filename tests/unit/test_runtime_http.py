"""A service's edge: errors are problems, nobody but the gateway gets in, dead letters can be seen and replayed."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Query
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Scope

from tests.runtime_kit import COLLECTIONS, Counting, FastClock, record, task_event, versions_seen
from trainwright.contracts.dead import DeadLetter
from trainwright.contracts.errors import (
    Conflict,
    Damaged,
    FieldError,
    IllegalTransition,
    InvalidInput,
    NotFound,
    NotJson,
    OutboxFull,
    StoreUnavailable,
    TooLarge,
    TrainwrightError,
    Unauthorised,
    VersionConflict,
)
from trainwright.contracts.task import TaskReady
from trainwright.contracts.task_config import CreateTask
from trainwright.contracts.topics import TASK
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply_each
from trainwright.runtime.dead import replay
from trainwright.runtime.envelope import Reread
from trainwright.runtime.health import Health
from trainwright.runtime.http import INTERNAL_HEADER, PREFIX, Calling, build_app, internal_only
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import accept, event_row
from trainwright.runtime.relay import Relay
from trainwright.runtime.run import with_token
from trainwright.runtime.service import Service
from trainwright.runtime.settings import RuntimeSettings
from trainwright.runtime.telemetry.scraping import Scrape
from trainwright.storage.sqlite import SqliteStore

ERRORS = (
    InvalidInput,
    Unauthorised,
    NotFound,
    Conflict,
    IllegalTransition,
    VersionConflict,
    TooLarge,
    NotJson,
    Damaged,
    StoreUnavailable,
    OutboxFull,
)
TOKEN = "a secret of this process"

router = APIRouter()


@router.get("/raise/{name}")
async def raise_error(name: str) -> None:
    """Raise one of our errors, or a bug."""
    kinds: dict[str, type[TrainwrightError]] = {kind.__name__: kind for kind in ERRORS}
    if name not in kinds:
        raise ZeroDivisionError("a secret of the code")
    raise kinds[name]("what happened", [FieldError(path="a.b", message="wrong")])


@router.post("/tasks")
async def create(body: CreateTask, caller: Calling, limit: int = 5) -> dict[str, str]:
    """Take a request."""
    return {"actor": caller.actor, "trace": caller.cause.traceparent or "", "id": caller.cause.id}


@router.get("/tasks")
async def listed(words: Annotated[list[str], Query()] = [], limit: int = 5) -> dict[str, list[str]]:  # noqa: B006
    """Answer at the same path by another method."""
    return {"words": words}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    store = SqliteStore(tmp_path / "edge.db", COLLECTIONS)
    await store.open()
    counting = Counting(fail_on={"task-000000000001": 5})
    yield Service("counting", store, {TASK: {TaskReady: counting.on_task_ready}}, router=router)
    await store.close()


def app_of(service: Service, token: str = TOKEN) -> ASGIApp:
    relay = Relay(service.name, service.store, Kafka(RuntimeSettings()), FastClock())
    health = Health(service.name, service.store, relay, [])
    return build_app(service, health, Scrape(), token=SecretStr(token))


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app_of(service), raise_app_exceptions=False)
    headers = {INTERNAL_HEADER: TOKEN}
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as made:
        yield made


def problem(answer: httpx.Response) -> dict[str, Any]:
    """Return an answer's problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "errors"}
    assert document["status"] == answer.status_code
    return document


class TestProblems:
    @pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
    async def test_every_error_of_ours_is_a_problem(
        self, client: httpx.AsyncClient, kind: type[TrainwrightError]
    ) -> None:
        answer = await client.get(f"{PREFIX}/raise/{kind.__name__}")
        found = problem(answer)
        assert (found["status"], found["code"], found["title"]) == (kind.status, kind.code, kind.title)
        assert found["detail"] == "what happened"
        assert found["errors"] == [{"path": "a.b", "message": "wrong"}]
        assert ("retry-after" in answer.headers) == (kind.status == 503)
        assert ("www-authenticate" in answer.headers) == (kind.status == 401)

    async def test_a_misspelt_filter_is_refused_and_lets_nothing_pass(self, client: httpx.AsyncClient) -> None:
        body = {"config": {"recipe": "script"}}
        assert (await client.post(f"{PREFIX}/tasks?limit=3", json=body)).status_code == 200
        found = problem(await client.post(f"{PREFIX}/tasks?limt=3&limit=3", json=body))
        assert (found["status"], found["code"]) == (422, "invalid_input")
        assert found["errors"] == [
            {"path": "limt", "message": "no parameter of this route; did you mean 'limit'?"}
        ]
        assert (await client.get("/health/live?cache=1")).status_code == 200

    async def test_a_parameter_that_is_given_twice_is_refused_where_the_route_takes_one_value(
        self, client: httpx.AsyncClient
    ) -> None:
        found = problem(await client.get(f"{PREFIX}/tasks?limit=3&limit=4&words=a&words=b"))
        assert (found["status"], found["code"]) == (422, "invalid_input")
        assert found["errors"] == [{"path": "limit", "message": "takes one value (got '3' and '4'); give it once"}]
        assert (await client.get(f"{PREFIX}/tasks?limit=3&words=a&words=b")).json() == {"words": ["a", "b"]}

    async def test_a_bug_is_a_problem_that_tells_no_secret_and_a_log_that_tells_all(
        self, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        found = problem(await client.get(f"{PREFIX}/raise/bug"))
        assert (found["status"], found["code"]) == (500, "internal")
        assert "secret" not in str(found)
        assert "a secret of the code" in caplog.text

    @pytest.mark.parametrize(
        ("body", "path", "says"),
        [
            (b'{"config": {"recipe": "x", "paramters": {}}}', "config.paramters", "did you mean 'parameters'?"),
            (b'{"config": {"recipe": "x", "priority": "hi"}}', "config.priority", "(got 'hi')"),
            (b'{"config": {}}', "config.recipe", "required"),
            (b"{", "body", "not JSON at character 1"),
            (b"", "body", "required"),
            (b"[]", "body", "valid dictionary"),
            (
                b'{"config": {"recipe": "x", "parameters": {"n": 1' + b"0" * 40 + b"}}}",
                "config.parameters",
                "too large",
            ),
            (b'{"config": {"recipe": "\\ud800"}}', "config.recipe", ""),
        ],
    )
    async def test_a_wrong_body_names_the_field(
        self, client: httpx.AsyncClient, body: bytes, path: str, says: str
    ) -> None:
        headers = {"content-type": "application/json"}
        found = problem(await client.post(f"{PREFIX}/tasks", content=body, headers=headers))
        assert (found["status"], found["code"]) == (422, "invalid_input")
        (error,) = found["errors"]
        assert error["path"] == path
        assert says in error["message"]
        assert path in found["detail"]

    @pytest.mark.parametrize(("kind", "says"), [("text/plain", "Content-Type: text/plain"), (None, "no header")])
    async def test_json_that_is_not_called_json_is_told_so(
        self, client: httpx.AsyncClient, kind: str | None, says: str
    ) -> None:
        headers = {"content-type": kind} if kind else {}
        answer = await client.post(f"{PREFIX}/tasks", content=b'{"config": {"recipe": "x"}}', headers=headers)
        found = problem(answer)
        assert (found["status"], found["code"]) == (415, "unsupported_media_type")
        (error,) = found["errors"]
        assert error["path"] == "body"
        assert says in error["message"]
        assert "send JSON with Content-Type: application/json" in error["message"]
        nothing = problem(await client.post(f"{PREFIX}/tasks", headers=headers))
        assert (nothing["status"], nothing["errors"][0]["path"]) == (422, "body"), "of nothing there is no type"

    @pytest.mark.parametrize("body", [b"[" * 100_000, b'{"config": {"n": ' + b"9" * 5_000 + b"}}"])
    async def test_json_beyond_reading_is_wrong_input(self, client: httpx.AsyncClient, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        found = problem(await client.post(f"{PREFIX}/tasks", content=body, headers=headers))
        assert (found["status"], found["code"]) == (422, "invalid_input")
        assert found["errors"][0]["path"] == "body"

    async def test_a_wrong_query_names_the_parameter(self, client: httpx.AsyncClient) -> None:
        body = {"config": {"recipe": "x"}}
        found = problem(await client.post(f"{PREFIX}/tasks?limit=many", json=body))
        assert found["errors"][0]["path"] == "limit"
        assert "(got 'many')" in found["errors"][0]["message"]

    async def test_what_is_not_there_and_what_is_not_done_are_problems(self, client: httpx.AsyncClient) -> None:
        missing = problem(await client.get(f"{PREFIX}/nothing"))
        assert (missing["status"], missing["code"]) == (404, "not_found")
        assert f"{PREFIX}/nothing" in missing["detail"]
        answer = await client.delete(f"{PREFIX}/tasks")
        assert problem(answer)["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "GET, POST"
        assert problem(answer)["detail"].endswith("/tasks; it takes GET, POST")


class TestCallers:
    async def test_who_calls_and_the_trace_come_from_the_gateway(self, client: httpx.AsyncClient) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"x-trainwright-actor": "admin", "traceparent": trace}
        body = {"config": {"recipe": "x"}}
        first = (await client.post(f"{PREFIX}/tasks", json=body, headers=headers)).json()
        second = (await client.post(f"{PREFIX}/tasks", json=body)).json()
        assert (first["actor"], first["trace"]) == ("admin", trace)
        assert second["actor"] == "unknown"
        assert second["trace"].startswith("00-")
        assert first["id"] != second["id"]


class TestTheDoor:
    @pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ü"])
    async def test_nobody_but_the_gateway_gets_in(self, service: Service, token: str | None) -> None:
        headers = {} if token is None else {INTERNAL_HEADER.encode(): token.encode()}
        transport = httpx.ASGITransport(app=app_of(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            found = problem(await client.post(f"{PREFIX}/tasks", json={}, headers=headers))
            assert (found["status"], found["code"]) == (401, "unauthorised")
            assert "call the gateway" in found["detail"]
            assert (await client.get("/health/live")).json() == {"status": "ok"}

    async def test_without_a_token_given_nobody_outside_of_the_process_has_one(self) -> None:
        made = {with_token(RuntimeSettings(internal_token=SecretStr(""))).internal_token for _ in range(2)}
        assert all(len(token.get_secret_value()) > 30 for token in made)
        assert len(made) == 2
        transport = httpx.ASGITransport(app=internal_only(lambda *_: None, SecretStr("")))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            for headers in ({}, {INTERNAL_HEADER: ""}):
                assert (await client.get("/", headers=headers)).status_code == 401
        given = RuntimeSettings(internal_token=SecretStr(TOKEN))
        assert with_token(given) is given

    async def test_a_websocket_is_closed_with_the_reason(self, service: Service) -> None:
        sent: list[Message] = []
        scope: Scope = {"type": "websocket", "path": f"{PREFIX}/tasks/t/monitor", "headers": []}

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await app_of(service)(scope, receive, send)
        assert [(m["type"], m["code"]) for m in sent] == [("websocket.close", 4401)]


class TestHealth:
    async def test_without_kafka_a_service_is_degraded_and_without_its_store_down(
        self, service: Service, client: httpx.AsyncClient
    ) -> None:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert "sent when it does" in answer.json()["detail"]
        await service.store.close()
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "down")
        assert answer.json()["store"] is False


class TestDeadLetters:
    async def put_aside(self, service: Service, *values: bytes | None) -> None:
        """Make the service meet records that it cannot apply."""
        counting = service.reactions[TASK][TaskReady]
        inbound = Inbound(service.name, TASK, {TaskReady: counting}, service.store, FastClock())
        for offset, value in enumerate(values):
            made = record(task_event(1), offset=offset)
            kept = made if value is None else Reread(TASK.name, 0, offset, made.key, value, made.headers)
            await apply_each([kept], inbound)

    async def test_they_are_listed_and_shown(self, service: Service, client: httpx.AsyncClient) -> None:
        await self.put_aside(service, b"broken", b"x" * 500_000)
        listed = (await client.get(f"{PREFIX}/dead/counting")).json()["dead_letters"]
        assert sorted(letter["offset"] for letter in listed) == [0, 1]
        large = next(letter for letter in listed if letter["offset"] == 1)
        assert large["value_b64"] is None, "a list of a hundred large ones would not fit in memory"
        shown = (await client.get(f"{PREFIX}/dead/counting/{large['dead_id']}")).json()
        assert len(shown["value_b64"]) > 600_000
        found = problem(await client.get(f"{PREFIX}/dead/counting/unknown"))
        assert (found["status"], found["detail"]) == (404, "counting has no dead letter unknown")

    async def test_one_that_can_be_applied_now_is_replayed(
        self, service: Service, client: httpx.AsyncClient
    ) -> None:
        await self.put_aside(service, None)
        (letter,) = (await client.get(f"{PREFIX}/dead/counting")).json()["dead_letters"]
        assert (letter["tries"], letter["replayed_at"]) == (5, None)
        assert await versions_seen(service.store) == {}
        replayed = (await client.post(f"{PREFIX}/dead/counting/{letter['dead_id']}/replay")).json()
        assert replayed["replayed_at"] is not None
        assert await versions_seen(service.store) == {"task-000000000001": [1]}
        await client.post(f"{PREFIX}/dead/counting/{letter['dead_id']}/replay")
        assert await versions_seen(service.store) == {"task-000000000001": [1]}, "twice replayed is once applied"

    async def test_one_that_still_cannot_says_why_and_stays(
        self, service: Service, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL)
        await self.put_aside(service, b"broken")
        (letter,) = (await client.get(f"{PREFIX}/dead/counting")).json()["dead_letters"]
        found = problem(await client.post(f"{PREFIX}/dead/counting/{letter['dead_id']}/replay"))
        assert (found["status"], found["code"]) == (409, "conflict")
        assert "it fails again: Poison: " in found["detail"]
        (after,) = (await client.get(f"{PREFIX}/dead/counting")).json()["dead_letters"]
        assert after == letter

    async def test_without_the_store_nothing_is_said_against_a_record(self, service: Service) -> None:
        await self.put_aside(service, None)
        (kept,) = (await service.store.find(DEAD_LETTERS.name)).items
        await service.store.close()
        with pytest.raises(StoreUnavailable):
            await replay(DeadLetter.model_validate(kept), service)
        await service.store.open()
        assert (await service.store.find(DEAD_LETTERS.name)).items == [kept]


class TestAccepting:
    async def test_a_full_outbox_accepts_nothing_more(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = FastClock()
        rows = [event_row(task_event(n), id=f"{n}", source="t", clock=clock, traceparent=None) for n in range(3)]
        async with service.store.transaction() as tx:
            await tx.add_outbox(rows)
        await accept(service.store)
        monkeypatch.setattr("trainwright.runtime.outbox.CAP", 3)
        with pytest.raises(OutboxFull, match="wait for Kafka"):
            await accept(service.store)

    async def test_an_event_that_fits_in_no_record_is_refused_where_it_is_made(self) -> None:
        event = task_event(1, reason="x" * 1_000_000)
        with pytest.raises(TooLarge, match=r"TaskReady of task-000000000001 has \d+ bytes; 921600 fit"):
            event_row(event, id="1", source="t", clock=FastClock(), traceparent=None)
