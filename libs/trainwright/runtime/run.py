"""Run services: one, or all of them in one process, from the same builders."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence

import uvloop
from pydantic import SecretStr

from trainwright.runtime import engines, own_logs
from trainwright.runtime.environment import Unfit
from trainwright.runtime.member import Member
from trainwright.runtime.server import Server
from trainwright.runtime.service import Builder, Runtime
from trainwright.runtime.settings import RuntimeSettings
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.runtime.waits import Waits

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 8.0
LAST_SPANS = 1.0
"""Seconds that the last spans may take to leave."""


Job = Coroutine[None, None, None]


def main(builders: Sequence[Builder], *, listening: str) -> None:
    """Run services until SIGTERM or SIGINT; the one named ``listening`` answers on the process's port."""
    own_logs.begin()
    try:
        uvloop.run(run(builders, with_token(RuntimeSettings()), listening=listening))
    except Unfit as error:
        sys.exit(f"trainwright: {error}")


def with_token(settings: RuntimeSettings) -> RuntimeSettings:
    """Return settings with an internal token: without one given, one that only this process knows."""
    if settings.internal_token.get_secret_value():
        return settings
    return settings.model_copy(update={"internal_token": SecretStr(secrets.token_urlsafe(32))})


async def run(builders: Sequence[Builder], settings: RuntimeSettings, *, listening: str) -> None:
    """Run services until the process is told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    TRACING.start(settings.otlp_endpoint)
    runtime = Runtime(settings)
    services = [build(runtime) for build in builders]
    topics_ready, waits = asyncio.Event(), Waits(runtime.clock)
    members = [Member(service, runtime, waits, topics_ready) for service in services]
    _keep_for_good()
    jobs = [_reach(engines.kafka_in_words(settings), runtime.kafka.ensure_topics, waits, topics_ready)]
    jobs += [member.run() for member in members]
    if (blobs := runtime.blob_store) is not None:
        jobs.append(_reach(engines.blobs_in_words(settings), blobs.check, waits, asyncio.Event()))
    tasks = [asyncio.create_task(job) for job in jobs]
    server = _server(runtime, listening)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(_set(stop))
    try:
        await asyncio.wait([serving, stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        await _wind_down([*tasks, stopping], serving)
        for service in services:
            await service.store.close()
        await asyncio.to_thread(TRACING.stop, LAST_SPANS)
    if (error := _first_error([*tasks, serving])) is not None:
        raise error


def _keep_for_good() -> None:
    """Take what has been made by now, which stays, out of the garbage collector's sight.

    Modules, models and routes are 120,000 objects: looking through them stopped everything for 60 ms now and then.
    """
    gc.collect()
    gc.freeze()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _reach(part: str, try_it: Callable[[], Job], waits: Waits, ready: asyncio.Event) -> None:
    await waits.reach(part, try_it)
    ready.set()
    await asyncio.Event().wait()


def _server(runtime: Runtime, listening: str) -> Server:
    return Server(runtime.apps[listening], runtime.settings.host, runtime.settings.port)


async def _wind_down(tasks: Sequence[asyncio.Task[None]], serving: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    _, late = await asyncio.wait([*tasks, serving], timeout=STOP_TIMEOUT)
    if late:
        # A client that cannot stop must not keep the process: what is committed is in the stores.
        logger.warning("%d parts did not stop in %.0f s", len(late), STOP_TIMEOUT)
        if (error := _first_error([*tasks, serving])) is not None:
            logger.error("%s", error)
        os._exit(0 if error is None else 1)


def _first_error(tasks: Sequence[asyncio.Task[None]]) -> BaseException | None:
    ended = [task for task in tasks if task.done() and not task.cancelled()]
    return next(filter(None, (task.exception() for task in ended)), None)
