"""One live stream: history and tail are the same question, asked again after each commit.

The reader sets the pace: nothing is buffered here but the page that is being sent. One that takes too long for a
page is moved to the newest records and told of the gap.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from services.monitor import messages
from services.monitor.domain import is_over
from services.monitor.settings import MonitorSettings
from services.monitor.tails import Tails, written
from trainwright.contracts.errors import FieldError, InvalidInput, StoreUnavailable
from trainwright.runtime.clock import Clock
from trainwright.storage.series import AttemptState

POLL = 1.0
"""Seconds after which a stream looks by itself: another process may have written."""
WAITING_WISHES = 16
GOING_AWAY = 1012


class Stream:
    """Sends one task's metrics to one client, as it subscribes."""

    def __init__(
        self,
        socket: WebSocket,
        task_id: str,
        *,
        tails: Tails,
        settings: MonitorSettings,
        clock: Clock,
    ) -> None:
        self._socket = socket
        self._task_id = task_id
        self._tails = tails
        self._series = tails.series
        self._settings = settings
        self._clock = clock
        self._wishes: asyncio.Queue[str] = asyncio.Queue(WAITING_WISHES)
        self._subscribed = False
        self._names: frozenset[str] | None = None
        self._cursor = 0
        self._rewinds_from = 0
        self._spoke = self._grew = clock.monotonic()
        self._waited = 0.0
        self._hearing: asyncio.Task[str] | None = None

    async def run(self) -> None:
        """Serve until the task is over or the client leaves."""
        listening = asyncio.create_task(self._listen())
        sending = asyncio.create_task(self._send())
        try:
            await asyncio.wait([listening, sending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (listening, sending, self._hearing):
                if task is not None:
                    task.cancel()
            results = await asyncio.gather(listening, sending, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                raise result

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._wishes.put(message.get("text") or "")

    async def _send(self) -> None:
        try:
            while not await self._turn():
                pass
            await self._socket.close()
        except StoreUnavailable as error:
            await self._say({"event": "error", "code": error.code, "detail": error.detail, "errors": []})
            await self._socket.close(GOING_AWAY)

    async def _turn(self) -> bool:
        """Say what there is to say, wait for more; return whether it is all."""
        await self._hear_what_came()
        while self._hearing is None and not self._wishes.empty():
            await self._hear(self._wishes.get_nowait())
        news = self._tails.news()
        if self._subscribed and await self._tell(news):
            return True
        if self._subscribed and self._behind:
            return False
        if self._clock.monotonic() - self._spoke >= self._settings.heartbeat_seconds:
            await self._say({"event": "heartbeat", "seq": self._cursor})
        await self._wait(news)
        return False

    async def _wait(self, news: "asyncio.Task[Any]") -> None:
        if self._hearing is None:
            self._hearing = asyncio.create_task(self._wishes.get())
        waits = {self._hearing, news} if self._subscribed else {self._hearing}
        timeout = min(POLL, self._settings.heartbeat_seconds)
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        await self._hear_what_came()

    async def _hear_what_came(self) -> None:
        if self._hearing is not None and self._hearing.done():
            heard, self._hearing = self._hearing.result(), None
            await self._hear(heard)

    async def _hear(self, text: str) -> None:
        try:
            wish = messages.read_wish(text)
            if isinstance(wish, messages.Subscribe):
                await self._subscribe(wish)
            else:
                self._unsubscribe(wish)
        except InvalidInput as error:
            await self._say(messages.error_line(error))

    async def _subscribe(self, wish: messages.Subscribe) -> None:
        head = await self._series.head(self._task_id)
        cursor = wish.cursor or 0
        if cursor > head:
            field = FieldError(path="cursor", message=f"above {head}, the last one there is; leave it out")
            raise InvalidInput(f"cursor: {field.message}", [field])
        self._names = frozenset(wish.metrics) if wish.metrics else None
        self._cursor = cursor
        # A history from the beginning is fenced already: what was rewound before now is not in it.
        self._rewinds_from = cursor if wish.cursor is not None else head
        self._subscribed = self._behind = True
        self._grew = self._clock.monotonic()

    def _unsubscribe(self, wish: messages.Unsubscribe) -> None:
        if wish.metrics and self._subscribed:
            if self._names is None:
                field = FieldError(path="metrics", message="all metrics are sent; subscribe to a list instead")
                raise InvalidInput(f"metrics: {field.message}", [field])
            self._names -= set(wish.metrics)
        self._subscribed = bool(wish.metrics and self._names)

    async def _tell(self, news: "asyncio.Task[Any]") -> bool:
        """Send the next page; return whether the task is over and all was sent."""
        self._waited = 0.0
        told = await self._tails.after(news, self._task_id, self._cursor, self._names, self._settings.page)
        lines = told.lines
        if rewinds := self._rewinds(told.attempts, told.cursor):
            lines = sorted([*lines, *((line["seq"], written(line)) for line in rewinds)], key=itemgetter(0))
        for _, text in lines:
            await self._send_text(text)
        self._cursor, self._behind = told.cursor, told.more
        now = self._clock.monotonic()
        if lines:
            self._grew = now
        if self._waited > self._settings.slow_seconds:  # for the reader: a busy machine is not its fault
            await self._catch_up(told.attempts)
        if lines or told.more:
            return False
        watched = await self._tails.watched(news, self._task_id)
        over = is_over(watched, told.attempts, now - self._grew, self._clock.now())
        if over and watched is not None:
            await self._say({"event": "end", "status": watched.status, "seq": self._cursor})
        return over

    async def _catch_up(self, attempts: Iterable[AttemptState]) -> None:
        newest = await self._series.skip(self._task_id, self._settings.slow_keeps)
        if newest > self._cursor:
            await self._say(messages.gap_line(self._cursor, newest))
            for line in self._rewinds(attempts, newest):
                await self._say(line)
            self._cursor, self._behind = newest, True

    def _rewinds(self, attempts: Iterable[AttemptState], to: int) -> list[dict[str, Any]]:
        after = max(self._cursor, self._rewinds_from)
        known = [state for state in attempts if state.resumed_at is not None and after < state.resumed_at <= to]
        return [messages.rewind_line(state) for state in known if state.attempt > 1]

    async def _say(self, line: dict[str, Any]) -> None:
        await self._send_text(written(line))

    async def _send_text(self, text: str) -> None:
        begun = self._clock.monotonic()
        await self._socket.send_text(text)
        self._spoke = self._clock.monotonic()
        self._waited += self._spoke - begun


async def refuse(socket: WebSocket, detail: str) -> None:
    """Accept, say why not, and close: before a handshake is answered there is no way to say it to a browser."""
    await socket.accept()
    line = {"event": "error", "code": "not_found", "detail": detail, "errors": []}
    with contextlib.suppress(WebSocketDisconnect):
        await socket.send_text(written(line))
        await socket.close(4404, detail[:120])
