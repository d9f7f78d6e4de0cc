"""One try: an event posted, signed, and what came back. Redirects are not followed, answers are not kept."""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import httpcore
import httpx

from services.gateway.webhooks.guard import Network, pool
from services.gateway.webhooks.signing import signature
from services.gateway.webhooks.store import Webhook
from trainwright.runtime.clock import Clock, derived_id

logger = logging.getLogger(__name__)

ANSWER_BYTES = 16 * 1024
"""Bytes of an answer's body that are read, so that the connection can be used again; over that it is closed."""
GONE = 410
LONGEST_WAIT = 3600.0
_SAFE = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Result:
    """How a try went. ``wait``: seconds that the receiver asked for."""

    code: int | None = None
    error: str | None = None
    wait: float = 0.0

    @property
    def taken(self) -> bool:
        """Return whether the event was taken."""
        return self.error is None


def header_id(event_id: str) -> str:
    """Return an event's id as it may stand in a header."""
    return event_id if _SAFE.fullmatch(event_id) else derived_id(event_id)


class Sender:
    """Posts events to webhooks."""

    def __init__(self, allowed: Sequence[Network], timeout: float, clock: Clock) -> None:
        self._allowed = allowed
        self._timeout = timeout
        self._clock = clock
        self._pools: dict[str, httpcore.AsyncConnectionPool] = {}

    async def post(self, webhook: Webhook, event_id: str, body: bytes) -> Result:
        """Post an event once."""
        now = self._clock.now()
        timestamp = int(now.timestamp())
        headers = {
            "content-type": "application/cloudevents+json",
            "user-agent": "Trainwright",
            "webhook-id": header_id(event_id),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(keys_of(webhook, now), header_id(event_id), timestamp, body),
        }
        try:
            async with asyncio.timeout(self._timeout):
                return await self._answer(webhook.url, headers, body)
        except TimeoutError:
            return Result(error=f"no whole answer in {self._timeout:g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Result(error=str(error) or type(error).__name__)
        except (httpx.InvalidURL, ValueError, RuntimeError) as error:
            logger.warning("webhook %s cannot be posted to: %s", webhook.webhook_id, type(error).__name__)
            return Result(error=f"cannot be posted to: {error}")

    async def close(self) -> None:
        """Close the connections."""
        for each in self._pools.values():
            await each.aclose()
        self._pools.clear()

    async def _answer(self, address: str, headers: dict[str, str], body: bytes) -> Result:
        url = httpx.URL(address)
        if url.scheme not in self._pools:
            self._pools[url.scheme] = pool(url.scheme, self._allowed)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        async with self._pools[url.scheme].stream(
            "POST", target, headers=list(headers.items()), content=body
        ) as response:
            read = 0
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read > ANSWER_BYTES:
                    break
        return _result(response.status, {name.lower(): value for name, value in response.headers})


def keys_of(webhook: Webhook, now: datetime) -> list[str]:
    """Return the secrets that hold now, the newest first."""
    return [key.secret for key in webhook.keys if key.until is None or key.until > now]


def _result(status: int, headers: dict[bytes, bytes]) -> Result:
    if 200 <= status < 300:
        return Result(status)
    if 300 <= status < 400:
        return Result(status, f"answered {status}: redirects are not followed; give the address they lead to")
    asked = headers.get(b"retry-after", b"")
    wait = min(float(asked), LONGEST_WAIT) if asked.isdigit() and status in (429, 503) else 0.0
    return Result(status, f"answered {status}", wait)
