"""Webhooks from the log to a real receiver, over its failures and the gateway's."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.events_desk import Desk, desk, say
from tests.harness import Bus, eventually, listening
from tests.webhook_receiver import Receiver, receiving
from trainwright.cli.main import app
from trainwright.client import Client, NotFound
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings

SETTINGS = {
    "GATEWAY_WEBHOOKS_ALLOW": "127.0.0.0/8",
    "GATEWAY_WEBHOOKS_RETRY_SECONDS": "0.05",
    "GATEWAY_WEBHOOKS_TIMEOUT_SECONDS": "0.5",
    "GATEWAY_WEBHOOKS_GIVE_UP_SECONDS": "3",
}


@pytest.fixture(scope="module")
def gateway(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(kafka, tmp_path_factory.mktemp("webhooks"), **SETTINGS) as running:
        yield running


@pytest.fixture
async def bus(gateway: Desk, kafka: str) -> AsyncIterator[Bus]:
    await Kafka(RuntimeSettings(kafka=kafka)).ensure_topics()
    async with listening(kafka) as bus:
        yield bus


class Hook:
    """One webhook, as its owner drives it."""

    def __init__(self, client: httpx.AsyncClient, view: dict[str, Any]) -> None:
        self.client, self.id, self.secret = client, view["webhook_id"], view["secret"]

    async def show(self) -> dict[str, Any]:
        answer = await self.client.get(f"/webhooks/{self.id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ask(self, what: str, status: int = 200, **body: Any) -> dict[str, Any]:
        answer = await self.client.post(f"/webhooks/{self.id}/{what}", json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def change(self, **body: Any) -> dict[str, Any]:
        answer = await self.client.patch(f"/webhooks/{self.id}", json=body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def deliveries(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/webhooks/{self.id}/deliveries", params=query)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["deliveries"]
        return found


@pytest.fixture
async def client(gateway: Desk) -> AsyncIterator[httpx.AsyncClient]:
    await gateway.process.ready("down")  # nothing is behind it
    async with gateway.client() as client:
        yield client


async def hook_to(receiver: Receiver, client: httpx.AsyncClient, **body: Any) -> Hook:
    """Register a receiver for events of tasks."""
    answer = await client.post("/webhooks", json={"url": receiver.url, "types": ["TaskReady"], **body})
    assert answer.status_code == 201, answer.text
    hook = Hook(client, answer.json())
    receiver.secret = hook.secret
    return hook


async def took(receiver: Receiver, wanted: Callable[[], bool]) -> None:
    await eventually(wanted, within=60, what="events to be taken")


async def test_events_are_posted_signed_in_order_and_logged(client: httpx.AsyncClient, bus: Bus) -> None:
    async with receiving() as receiver:
        hook = await hook_to(receiver, client, description="for tests")
        said = await say(bus, 100, 25)
        await took(receiver, lambda: len(receiver.versions()) == 25)
        assert receiver.versions() == said
        headers, _ = receiver.requests[0]
        assert headers["content-type"] == "application/cloudevents+json"
        assert headers["webhook-id"] == receiver.taken[0]["id"]
        assert receiver.taken[0]["data"]["task"]["task_id"] == receiver.taken[0]["subject"]

        async def all_logged() -> bool:
            return len(await hook.deliveries(status="delivered")) == 25

        await eventually(all_logged, within=10, what="25 deliveries in the log")
        first = (await hook.deliveries(limit=3))[0]
        assert (first["status"], first["tries"], first["code"]) == ("delivered", 1, 204)
        page = (await client.get(f"/webhooks/{hook.id}/deliveries", params={"limit": 20})).json()
        rest = await hook.deliveries(limit=20, cursor=page["next_cursor"])
        assert len({each["delivery_id"] for each in page["deliveries"] + rest}) == 25
        await hook.change(active=False)


async def test_a_receiver_that_fails_hangs_or_leads_elsewhere_gets_every_event_in_order(
    client: httpx.AsyncClient, bus: Bus
) -> None:
    async with receiving(500, 302, None, 503, 204) as receiver:
        hook = await hook_to(receiver, client)
        said = await say(bus, 200, 5)
        await took(receiver, lambda: len(receiver.versions()) == 5)
        assert receiver.versions() == said
        assert set(receiver.paths) == {"/hook"}, "a redirect was followed"
        ids = [headers["webhook-id"] for headers, _ in receiver.requests]
        assert len(set(ids[:5])) == 1, "a repeat has the same id"
        oldest = (await hook.deliveries())[-1]
        assert (oldest["tries"], oldest["status"]) == (5, "delivered")
        await hook.change(active=False)


async def test_an_event_that_nobody_takes_is_given_up_and_can_be_told_again(
    client: httpx.AsyncClient, bus: Bus
) -> None:
    async with receiving(500) as receiver:
        hook = await hook_to(receiver, client)
        said = await say(bus, 300, 1)

        async def given_up() -> list[dict[str, Any]]:
            failed = await hook.deliveries(status="failed")
            return failed

        failed = await eventually(given_up, within=30, what="an event to be given up")
        assert failed[0]["error"] == "answered 500"
        view = await hook.show()
        assert view["active"]
        assert view["failing_since"]
        receiver.answers = [204]
        await hook.ask("replay", 202, start=failed[-1]["position"])
        await took(receiver, lambda: len(receiver.versions()) == 1)
        assert receiver.versions() == said
        again = len(receiver.taken)
        await hook.ask("replay", 202, start=view["created_at"])
        await took(receiver, lambda: len(receiver.taken) > again)
        assert (await hook.show())["failing_since"] is None
        await hook.change(active=False)


async def test_a_receiver_that_is_gone_is_left_alone_until_it_is_switched_on_again(
    client: httpx.AsyncClient, bus: Bus
) -> None:
    async with receiving(410) as receiver:
        hook = await hook_to(receiver, client)
        said = await say(bus, 400, 3)

        async def off() -> bool:
            return not (await hook.show())["active"]

        await eventually(off, within=30, what="the webhook to be switched off")
        assert "410" in (await hook.show())["disabled_reason"]
        assert len(receiver.requests) == 1
        receiver.answers = [204]
        assert (await hook.ask("test"))["status"] == "delivered", "a test goes to one that is off, too"
        receiver.taken.clear()
        view = await hook.change(active=True)
        assert view["disabled_reason"] is None
        await took(receiver, lambda: len(receiver.versions()) == 3)
        assert receiver.versions() == said
        await hook.change(active=False)


async def test_nothing_is_lost_when_the_gateway_is_killed_between_deliveries(
    gateway: Desk, client: httpx.AsyncClient, bus: Bus
) -> None:
    async with receiving() as receiver:
        hook = await hook_to(receiver, client, active=False)
        said = await say(bus, 500, 120)  # so that all are found at once, and many are left when it is killed
        await hook.change(active=True)
        await took(receiver, lambda: len(receiver.versions()) >= 20)
        gateway.process.stop(kill=True)
        gateway.process.start()
        await took(receiver, lambda: len(receiver.versions()) == 120)
        assert receiver.versions() == said
        assert len(receiver.taken) < 130, "only what was under way is told twice"
        await hook.change(active=False)


async def test_a_secret_is_shown_once_and_changes_with_an_overlap(
    gateway: Desk, client: httpx.AsyncClient, bus: Bus
) -> None:
    async with receiving() as receiver:
        hook = await hook_to(receiver, client)
        old = hook.secret
        new = (await hook.ask("rotate"))["secret"]
        assert new != old
        for secret in (old, new):
            receiver.secret = secret
            assert (await hook.ask("test"))["status"] == "delivered"
        shown = [
            (await client.get("/webhooks")).text,
            (await client.get(f"/webhooks/{hook.id}")).text,
            (await client.patch(f"/webhooks/{hook.id}", json={"description": "x"})).text,
            (await client.get(f"/webhooks/{hook.id}/deliveries")).text,
            gateway.process.log(),
        ]
        for secret in (old, new):
            assert not [text for text in shown if secret in text or secret[6:] in text]
        answer = await client.delete(f"/webhooks/{hook.id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.get(f"/webhooks/{hook.id}")).status_code == 404
        assert (await client.get(f"/webhooks/{hook.id}/deliveries")).status_code == 404


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ({"url": "http://10.0.0.1/x"}, "url", "GATEWAY_WEBHOOKS_ALLOW"),
        ({"url": "https://169.254.169.254/x"}, "url", "GATEWAY_WEBHOOKS_ALLOW"),
        ({"url": "nonsense"}, "url", "https://host/path"),
        ({"url": "http://127.0.0.1/", "types": ["TaskRedy"]}, "types", "did you mean 'TaskReady'?"),
        ({"url": "http://127.0.0.1/", "topics": ["taks"]}, "topics", "did you mean 'task'?"),
        ({"url": "http://127.0.0.1/", "secret": "hunter2hunter2"}, "secret", "leave it out"),
        ({"url": "http://127.0.0.1/", "event": []}, "event", "unknown key"),
        ({"url": "http://127.0.0.1/", "start": "yesterday"}, "start", "`beginning`"),
        ({}, "url", "required"),
    ],
)
async def test_what_is_wrong_is_said_with_the_fix(
    client: httpx.AsyncClient, body: dict[str, Any], path: str, said: str
) -> None:
    answer = await client.post("/webhooks", json=body)
    assert answer.status_code == 422, answer.text
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert said in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("start", ["nonsense", "2025-13-45T00:00:00Z", "taks:4"])
async def test_a_replay_from_nowhere_is_refused(client: httpx.AsyncClient, start: str) -> None:
    async with receiving() as receiver:
        hook = await hook_to(receiver, client, active=False)
        answer = await client.post(f"/webhooks/{hook.id}/replay", json={"start": start})
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["path"] == "start"
        missing = await client.post("/webhooks/webhook-000000000000/replay", json={"start": "beginning"})
        assert missing.status_code == 404


async def test_the_command_line_and_the_client_do_it_all(
    gateway: Desk, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINWRIGHT_URL", gateway.process.url)
    monkeypatch.setenv("TRAINWRIGHT_API_KEY", gateway.key)

    async def shell(*words: str, code: int = 0) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, list(words))
        assert result.exit_code == code, f"{words}: {result.output} {result.exception!r}"
        return str(result.output)

    async with receiving() as receiver:
        made = json.loads(await shell("webhook", "create", receiver.url, "--type", "TaskReady", "--json"))
        id, receiver.secret = made["webhook_id"], made["secret"]
        assert receiver.secret.startswith("whsec_")
        assert "delivered" in await shell("webhook", "test", id)
        receiver.taken.clear()
        said = await say(bus, 700, 3)
        await took(receiver, lambda: len(receiver.versions()) == 3)
        assert receiver.versions() == said
        assert id in await shell("webhook", "list")
        assert "TaskReady" in await shell("webhook", "show", id)
        assert "delivered" in await shell("webhook", "deliveries", id, "--limit", "5")
        rows = [json.loads(line) for line in (await shell("webhook", "deliveries", id, "--json")).splitlines()]
        oldest = [row for row in rows if row["kind"] == "event"][-1]
        receiver.taken.clear()
        await shell("webhook", "replay", id, "--from", oldest["position"])
        await took(receiver, lambda: len(receiver.versions()) == 3)
        assert "paused" in await shell("webhook", "pause", id)
        assert "active" in await shell("webhook", "resume", id)
        assert "whsec_" in await shell("webhook", "rotate", id)
        receiver.answers = [500]
        assert "answered 500" in await shell("webhook", "test", id, code=1)
        assert receiver.secret not in await shell("webhook", "show", id, "--json")
        await shell("webhook", "remove", id)
    with Client() as client:
        with pytest.raises(NotFound):
            await asyncio.to_thread(client.webhook, id)
        assert id not in {webhook.webhook_id for webhook in (await asyncio.to_thread(client.webhooks)).webhooks}
