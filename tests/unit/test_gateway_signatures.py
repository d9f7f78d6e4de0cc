"""Signatures, addresses that are refused, and what follows a failed try."""

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import ThreadingHTTPServer

import httpcore
import pytest

from examples.receive_webhooks import Receiver
from services.gateway.domain import may
from services.gateway.settings import GatewaySettings
from services.gateway.webhooks.courier import disabling, test_letter, tried
from services.gateway.webhooks.guard import GuardedBackend, check_url, networks, refusal
from services.gateway.webhooks.sender import Result, Sender, header_id
from services.gateway.webhooks.signing import check_secret, new_secret, signature
from services.gateway.webhooks.store import Cursor, Key, Webhook
from tests.runtime_kit import MOMENT, FastClock
from tests.webhook_receiver import receiving
from trainwright.contracts.errors import InvalidInput
from trainwright.contracts.webhook import DeliveryStatus
from trainwright.runtime.clock import SystemClock

test_letter.__test__ = False  # type: ignore[attr-defined]

HERE = networks("127.0.0.0/8, 10.1.0.0/16, fd00::/8")


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    found = signature([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_secret_that_holds_signs() -> None:
    one, two = new_secret(), new_secret()
    found = signature([one, two], "id", 7, b"body").split(" ")
    for secret, signed in zip((one, two), found, strict=True):
        digest = hmac.digest(base64.b64decode(secret[6:]), b"id.7.body", hashlib.sha256)
        assert signed == f"v1,{base64.b64encode(digest).decode()}"


@pytest.mark.parametrize(
    "secret", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_" + "QUJD" * 30, "whsec_%%%%"]
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_secret(secret)
    assert "whsec_" in refused.value.detail
    assert len(secret) < 7 or secret not in refused.value.detail
    assert check_secret(new_secret())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "::1", "::", "10.0.0.1", "172.16.3.4", "192.168.1.1",
        "169.254.169.254", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "100.64.0.1", "224.0.0.1", "ff02::1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1", "2002:a00:1::", "::127.0.0.1", "::ffff:224.0.0.1",
    ],
)  # fmt: skip
def test_an_address_inside_is_refused(address: str) -> None:
    reason = refusal(address, ())
    assert reason is not None
    assert "GATEWAY_WEBHOOKS_ALLOW" in reason


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8"])
def test_a_public_address_is_good_for_https_alone(address: str) -> None:
    assert refusal(address, ()) is None
    assert "https" in str(refusal(address, (), public=False))


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("10.1.255.1", True),
        ("10.2.0.1", False),
        ("fd00::7", True),
    ],
)
def test_a_network_that_is_allowed_opens_itself_and_no_other(address: str, good: bool) -> None:
    assert (refusal(address, HERE, public=False) is None) == good


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1/x", "this machine"),
        ("https://localhost/x", "this machine"),
        ("https://127.1/x", "this machine"),
        ("https://2130706433/x", "this machine"),
        ("https://0x7f000001/x", "this machine"),
        ("https://017700000001/x", "this machine"),
        ("https://[::ffff:127.0.0.1]/x", "this machine"),
        ("https://[::1]:8443/x", "this machine"),
        ("https://169.254.169.254/latest/meta-data", "not a public address"),
        ("http://8.8.8.8/x", "use https"),
        ("http://name.invalid/x", "looked up"),
        ("ftp://example.com/x", "https://host/path"),
        ("file:///etc/passwd", "https://host/path"),
        ("https://user:secret@example.com/", "a user"),
        ("https://example.com:99999/", "address"),
        ("https://", "https://host/path"),
        ("nonsense", "https://host/path"),
        ("https://exa\nmple.com/", "address"),
    ],
)
async def test_an_address_that_leads_nowhere_good_is_refused_when_it_is_registered(url: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await check_url(url, ())
    assert said in refused.value.detail
    assert [error.path for error in refused.value.errors] == ["url"]


async def test_what_counts_is_the_address_at_the_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may point elsewhere after it was registered; and of several addresses only good ones are tried."""
    with pytest.raises(httpcore.ConnectError, match="this machine"):
        await GuardedBackend((), public=True).connect_tcp("localhost", 1)
    with pytest.raises(httpcore.ConnectError, match="does not answer"):
        await GuardedBackend(HERE, public=False).connect_tcp("127.0.0.1", 1, 1.0)
    with pytest.raises(httpcore.ConnectError, match="over TCP"):
        await GuardedBackend(HERE, public=True).connect_unix_socket("/run/x")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "nonsense", "10.0.0.0/33"])
def test_a_network_that_is_none_is_refused_at_start(text: str) -> None:
    with pytest.raises(ValueError, match="GATEWAY_WEBHOOKS_ALLOW"):
        GatewaySettings(webhooks_allow=text)


def hook(url: str = "https://x") -> Webhook:
    keys = [Key(secret=new_secret())]
    return Webhook(webhook_id="webhook-1", url=url, created_at=MOMENT, updated_at=MOMENT, keys=keys)


@pytest.fixture
def example() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


async def test_the_examples_receiver_takes_what_is_genuine_and_nothing_else(
    example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhook, sender = hook(example), Sender(HERE, 10, SystemClock())
    letter = test_letter(webhook, "test-1", MOMENT)
    monkeypatch.setenv("TRAINWRIGHT_WEBHOOK_SECRET", webhook.keys[0].secret)
    assert (await sender.post(webhook, "test-1", letter.body)).code == 204
    assert capsys.readouterr().out == "2025-03-03T08:15:30.000000Z Test webhook-1\n"
    late = Sender(HERE, 10, FastClock())
    for result in (
        await sender.post(hook(example), "test-1", letter.body),
        await late.post(webhook, "test-1", letter.body),
    ):
        assert (result.code, result.taken) == (401, False)
    assert capsys.readouterr().out == ""
    await sender.close()
    await late.close()


@pytest.mark.parametrize(
    ("answer", "said"), [(302, "not followed"), (None, "no whole answer in 0.5 s"), (500, "answered 500")]
)
async def test_a_try_that_fails_says_why(answer: int | None, said: str) -> None:
    async with receiving(answer) as receiver:
        webhook, sender = hook(receiver.url), Sender(HERE, 0.5, SystemClock())
        assert said in str((await sender.post(webhook, "id", b"{}")).error)
        assert receiver.paths == ["/hook"]
        strict = Sender((), 5, SystemClock())
        assert "this machine" in str((await strict.post(webhook, "id", b"")).error)
        assert len(receiver.paths) == 1, "an address that is not allowed was posted to"
    assert not (await sender.post(webhook, "id", b"{}")).taken
    await sender.close()
    await strict.close()


async def test_an_address_that_is_none_any_more_is_a_try_that_failed() -> None:
    """Kept by a version with other rules: the event is logged and given up like others, and the courier lives."""
    sender = Sender(HERE, 5, SystemClock())
    result = await sender.post(hook("https://exa\nmple.com/"), "id", b"{}")
    assert (result.taken, result.code) == (False, None)
    assert str(result.error).startswith("cannot be posted to: Invalid")
    await sender.close()


def test_tries_come_later_and_later_until_the_event_is_given_up() -> None:
    clock, settings = FastClock(), GatewaySettings(webhooks_give_up_seconds=100, webhooks_retry_seconds=1)
    delivery = test_letter(hook(), "test-1", clock.now()).delivery
    waits = []
    while True:
        delivery = tried(delivery, Result(503, "answered 503"), settings, clock)
        if delivery.next_try_at is None:
            break
        waits.append((delivery.next_try_at - clock.now()).total_seconds())
        clock.slept.append(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 64]
    assert (delivery.status, delivery.tries, delivery.code) == (DeliveryStatus.FAILED, 8, 503)
    assert tried(delivery, Result(204), settings, clock).status == DeliveryStatus.DELIVERED
    asked = tried(
        test_letter(hook(), "t", clock.now()).delivery, Result(429, "answered 429", wait=50), settings, clock
    )
    assert asked.next_try_at == clock.now() + timedelta(seconds=50)


def test_a_receiver_that_is_gone_or_silent_for_days_is_switched_off() -> None:
    settings = GatewaySettings()
    failing = Cursor(webhook_id="w", failing_since=MOMENT)
    assert "410" in str(disabling(Result(410, "answered 410"), failing, settings, MOMENT))
    assert disabling(Result(500, "answered 500"), failing, settings, MOMENT + timedelta(days=2)) is None
    reason = disabling(Result(500, "answered 500"), failing, settings, MOMENT + timedelta(days=3))
    assert "answered 500" in str(reason)
    assert disabling(Result(200), Cursor(webhook_id="w"), settings, MOMENT) is None


def test_an_id_that_no_header_can_hold_is_replaced_by_one_that_stays_the_same() -> None:
    assert header_id("9f2c-x") == "9f2c-x"
    assert header_id("a\r\nb") == header_id("a\r\nb") != "a\r\nb"


def test_secrets_are_in_no_text_of_a_webhook() -> None:
    webhook = hook()
    assert webhook.keys[0].secret not in f"{webhook!r} {webhook} {webhook.keys}"


@pytest.mark.parametrize(
    ("role", "path", "good"),
    [("admin", "/webhooks", True), ("user", "/webhooks", False), ("user", "/webhooks/a/test", False),
     ("user", "/tasks", True), ("user", "/events", True)],
)  # fmt: skip
def test_webhooks_are_for_admins(role: str, path: str, good: bool) -> None:
    assert may(role, path) == good
