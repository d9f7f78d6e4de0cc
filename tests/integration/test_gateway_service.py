"""The public door, once with all services in its process and once with each elsewhere."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.harness import API, TOKEN, ServiceProcess, eventually, listening, services
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.topics import LOG

ALL = ["task", "scheduler", "monitor", "result", "log", "gateway"]
TASK = {"config": {"recipe": "script", "parameters": {"path": "train.py"}}}


class Door:
    """The running gateway, as the public sees it."""

    def __init__(self, process: ServiceProcess, key_file: Path, parts: dict[str, ServiceProcess]) -> None:
        self.process, self.key_file, self.parts = process, key_file, parts

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def key(self) -> str:
        return self.key_file.read_text().strip()

    def client(self, key: str | None = "", **headers: str) -> httpx.AsyncClient:
        if key is not None:
            headers["Authorization"] = f"Bearer {key or self.key}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=90)

    def stream(self, task_id: str, **options: Any) -> connect:
        url = f"{self.url.replace('http', 'ws')}{API}/tasks/{task_id}/monitor"
        options.setdefault("additional_headers", {"Authorization": f"Bearer {self.key}"})
        return connect(url, proxy=None, **options)


def start(mode: str, kafka: str, folder: Path, stack: ExitStack) -> Door:
    key_file = folder / "api-key"
    key_file.write_text(secrets.token_urlsafe(24) + "\n")
    env = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(key_file), "GATEWAY_BODY_LIMIT": "20000"}
    if mode == "together":
        return Door(stack.enter_context(services(ALL, kafka, folder, **env)), key_file, {})
    parts = {name: stack.enter_context(services([name], kafka, folder)) for name in ALL[:-1]}
    env |= {f"TRAINWRIGHT_{name.upper()}_URL": part.url for name, part in parts.items()}
    return Door(stack.enter_context(services(["gateway"], kafka, folder, **env)), key_file, parts)


@pytest.fixture(scope="module", params=["together", "apart"])
def running(
    request: pytest.FixtureRequest, kafka: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    with ExitStack() as stack:
        yield start(request.param, kafka, tmp_path_factory.mktemp(request.param), stack)


@pytest.fixture
async def door(running: Door) -> Door:
    await running.process.ready()
    return running


@pytest.fixture
async def client(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with door.client() as client:
        yield client


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    return problem


async def new_task(client: httpx.AsyncClient) -> str:
    upload = await client.post(f"{API}/files", content=b"print(1)")
    file = {"path": "train.py", "sha256": upload.json()["sha256"], "size": upload.json()["size"]}
    answer = await client.post(f"{API}/tasks", json={"config": {**TASK["config"], "files": [file]}})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["task_id"])


async def test_every_owner_is_reached(client: httpx.AsyncClient) -> None:
    task_id = await new_task(client)
    for path in (
        f"/tasks/{task_id}",
        f"/tasks/{task_id}/history",
        f"/tasks/{task_id}/metrics",
        f"/tasks/{task_id}/logs",
        "/tasks?limit=5",
        "/workers",
        "/models",
        "/dead",
    ):
        answer = await client.get(API + path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
    report = assert_problem(await client.get(f"{API}/tasks/{task_id}/report"), 409, "conflict")
    assert "report" in report["detail"]


async def test_without_a_key_only_health_and_the_description_answer(door: Door) -> None:
    async with door.client(None) as stranger:
        for path in ("/health/live", "/health/ready", "/openapi.json"):
            assert (await stranger.get(path)).status_code == 200
        for path in ("/", "/docs", f"{API}/tasks", f"{API}/nothing", "/health", f"{API}/dead", "/health/../x"):
            answer = await stranger.get(path)
            assert_problem(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = await stranger.get(f"{API}/tasks", headers={"x-trainwright-internal": TOKEN})
        assert_problem(answer, 401, "unauthorised")
    for wrong in ("nonsense", "é" * 20, "x" * 5000):
        async with door.client(None) as stranger:
            headers = [(b"authorization", f"Bearer {wrong}".encode())]
            answer = await stranger.get(f"{API}/tasks", headers=headers)
            assert_problem(answer, 401, "unauthorised")


async def test_a_key_is_stored_as_its_hash_only(door: Door) -> None:
    async with door.client() as client:
        assert (await client.get(f"{API}/workers")).status_code == 200
    stores = list((door.key_file.parent / "services").glob("gateway.db*"))
    assert stores
    assert not any(door.key.encode() in store.read_bytes() for store in stores)


async def test_unknown_paths_and_wrong_methods_are_problems(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/"), 404, "not_found")
    assert_problem(await client.get(f"{API}/nothing"), 404, "not_found")
    assert_problem(await client.get(f"{API}/tasks/x/y/z"), 404, "not_found")
    assert_problem(await client.get(f"{API}/tasks/no-such-task"), 404, "not_found")
    assert_problem(await client.delete(f"{API}/tasks"), 405, "method_not_allowed")
    assert_problem(await client.post(f"{API}/workers"), 405, "method_not_allowed")
    assert_problem(await client.post("/health/ready"), 405, "method_not_allowed")
    assert_problem(await client.post(f"{API}/tasks", content=b"{"), 415, "unsupported_media_type")
    json = {"Content-Type": "application/json"}
    assert_problem(await client.post(f"{API}/tasks", content=b"{", headers=json), 422, "invalid_input")


async def test_our_own_headers_stay_inside(door: Door) -> None:
    forged = {"x-trainwright-actor": "somebody-else", "x-trainwright-internal": "x"}
    async with door.client(**forged) as client:
        task_id = await new_task(client)
        answer = await client.get(f"{API}/tasks/{task_id}/history")
        assert [entry["actor"] for entry in answer.json()["entries"]] == ["admin"]
        assert not [name for name in answer.headers if name.startswith("x-trainwright")]
        assert TOKEN not in str(answer.headers)


async def test_a_body_over_the_limit_is_refused_however_it_comes(client: httpx.AsyncClient) -> None:
    large = b'{"config": "' + b"x" * 30_000 + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 5000):
            yield large[start : start + 5000]
            await asyncio.sleep(0.01)

    for content in (large, pieces()):
        assert_problem(await client.post(f"{API}/tasks", content=content), 413, "too_large")


async def test_files_stream_through_in_both_directions(client: httpx.AsyncClient) -> None:
    piece, count = secrets.token_bytes(64 * 1024), 160

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    stored = (await client.post(f"{API}/files", content=pieces())).json()
    assert stored["size"] == count * len(piece)
    size = 0
    async with client.stream("GET", f"{API}/files/{stored['sha256']}") as answer:
        assert answer.headers["content-length"] == str(stored["size"])
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
    assert size == stored["size"]


async def lines(socket: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(120):
        return [json.loads(await socket.recv()) for _ in range(count)]


async def test_a_stream_is_relayed_as_it_is(door: Door, client: httpx.AsyncClient, kafka: str) -> None:
    task_id = await new_task(client)
    async with listening(kafka) as bus, door.stream(task_id) as socket:
        await socket.send('{"action": "subscribe"}')
        for n in range(3):
            points = [MetricPoint(n, 0.0, n, {"loss": float(n)})]
            await bus.say(MetricBatch(task_id=task_id, attempt=1, points=points))
        assert [line["step"] for line in await lines(socket, 3)] == [0, 1, 2]
        await socket.send("nonsense")
        assert (await lines(socket, 1))[0]["event"] == "error"
    async with door.stream("task-000000000000") as socket:
        assert (await lines(socket, 1))[0]["code"] == "not_found"
        await socket.wait_closed()
        assert (socket.close_code, "no task" in str(socket.close_reason)) == (4404, True)


async def test_a_browser_sends_its_key_as_a_sub_protocol(door: Door, client: httpx.AsyncClient) -> None:
    task_id = await new_task(client)
    offered = ["trainwright", f"key.{door.key}"]
    ours = door.url
    async with door.stream(task_id, additional_headers={}, subprotocols=offered, origin=ours) as socket:
        assert socket.subprotocol == "trainwright"
        await socket.send("nonsense")
        assert (await lines(socket, 1))[0]["event"] == "error"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"additional_headers": {}}, 401),
        ({"additional_headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"additional_headers": {}, "subprotocols": ["trainwright", "key.wrong"]}, 401),
        ({"origin": "https://elsewhere.example"}, 403),
    ],
)
async def test_a_stream_for_a_stranger_is_refused_with_a_reason(
    door: Door, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await door.stream("task-000000000000", **options)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["status"] == status


async def test_readiness_is_everybodys(door: Door) -> None:
    async with door.client(None) as stranger:
        found = (await stranger.get("/health/ready")).json()
    assert found["status"] == "ok"
    assert {service["service"] for service in found["services"]} == set(ALL)


async def test_a_dead_letter_is_found_shown_and_replayed_through_the_door(
    client: httpx.AsyncClient, kafka: str
) -> None:
    async with listening(kafka) as bus:
        headers = [("ce_id", b"1"), ("ce_type", b"trainwright.log.LogBatch.v1"), ("ce_source", b"/tests")]
        await bus.say_raw(LOG.name, b"poison", headers)

    async def buried() -> list[dict[str, Any]]:
        answer = await client.get(f"{API}/dead", params={"consumer": "log"})
        return [letter for letter in answer.json()["dead_letters"] if letter["value_b64"] == "cG9pc29u"]

    letter = (await eventually(buried, within=15, what="a dead letter"))[0]
    everybodys = (await client.get(f"{API}/dead")).json()["dead_letters"]
    assert letter["dead_id"] in [each["dead_id"] for each in everybodys]
    for path in (f"/dead/{letter['dead_id']}", f"/dead/log/{letter['dead_id']}"):
        assert (await client.get(API + path)).json() == letter
        assert_problem(await client.post(f"{API}{path}/replay"), 409, "conflict")
    assert_problem(await client.get(f"{API}/dead/nothing"), 404, "not_found")
    for odd in ("a%15b", "a%3Fb%23c", "%F3%B8%94%BB", "%25", "..%5C", letter["dead_id"] + "%3F"):
        for path in (f"/dead/{odd}", f"/dead/log/{odd}"):
            assert_problem(await client.get(f"{API}{path}"), 404, "not_found")
            assert_problem(await client.post(f"{API}{path}/replay"), 404, "not_found")
    assert_problem(await client.get(f"{API}/dead/log/nothing"), 404, "not_found")
    problem = assert_problem(await client.get(f"{API}/dead?consumer=lgo"), 422, "invalid_input")
    assert "did you mean 'log'?" in problem["detail"]


async def test_one_description_of_everything(door: Door) -> None:
    async with door.client(None) as stranger:
        document = (await stranger.get("/openapi.json")).json()
    paths = document["paths"]
    for path in (
        "/tasks",
        "/tasks/{task_id}/metrics",
        "/tasks/{task_id}/logs",
        "/models",
        "/workers",
        "/files",
        "/dead",
    ):
        assert API + path in paths
    assert "/health/ready" in paths
    assert not [path for path in paths if path.startswith(f"{API}/dead/monitor")]
    assert paths[f"{API}/tasks"]["post"]["security"] == [{"key": []}]
    assert paths["/health/live"]["get"]["security"] == []
    schemas = document["components"]["schemas"]
    references = {part.split('"')[0] for part in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    for path, item in paths.items():
        for method, operation in item.items():
            assert operation.get("summary"), f"{method} {path} has no summary"


async def test_a_new_admin_key_in_the_file_replaces_the_old(door: Door) -> None:
    old = door.key
    async with door.client() as client:
        assert (await client.get(f"{API}/workers")).status_code == 200
    door.key_file.write_text(secrets.token_urlsafe(30))
    async with door.client() as client:
        assert (await client.get(f"{API}/workers")).status_code == 200
    async with door.client(old) as stranger:
        assert_problem(await stranger.get(f"{API}/workers"), 401, "unauthorised")


async def test_a_service_that_is_gone_is_named_and_harms_no_other(door: Door, kafka: str) -> None:
    if not door.parts:
        pytest.skip("all services are one process here")
    door.parts["log"].stop(kill=True)
    async with door.client() as client:
        task_id = await new_task(client)
        answer = await client.get(f"{API}/tasks/{task_id}/logs")
        problem = assert_problem(answer, 503, "unavailable")
        assert "log" in problem["detail"]
        assert answer.headers["retry-after"]
        assert (await client.get(f"{API}/tasks/{task_id}/metrics")).status_code == 200
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        states = {each["service"]: each["status"] for each in ready.json()["services"]}
        assert states == {**dict.fromkeys(ALL, "ok"), "log": "down"}
        assert_problem(await client.get(f"{API}/dead"), 503, "unavailable")
        assert (await client.get("/openapi.json")).status_code == 200
        door.parts["monitor"].stop(kill=True)
        with pytest.raises(InvalidStatus) as refused:
            await door.stream(task_id)
        assert refused.value.response.status_code == 503
    for name in ("log", "monitor"):
        door.parts[name].start()
    await door.process.ready()
