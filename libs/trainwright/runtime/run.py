"""Run services: one, or all of them in one process, from the same builders."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence

import uvicorn
from pydantic import SecretStr

from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.apply import Inbound
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.effects import EffectRunner
from trainwright.runtime.health import Health
from trainwright.runtime.http import build_app
from trainwright.runtime.kafka import UNREACHABLE, Kafka
from trainwright.runtime.relay import Relay
from trainwright.runtime.service import Builder, Loop, Runtime, Service
from trainwright.runtime.settings import RuntimeSettings

logger = logging.getLogger(__name__)

STOP_TIMEOUT = 8.0


Job = Coroutine[None, None, None]


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the process has one way to stop, and it is ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(builders: Sequence[Builder], *, listening: str) -> None:
    """Run services until SIGTERM or SIGINT; the one named ``listening`` answers on the process's port."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters it raises; the rest is every retry
    try:
        asyncio.run(run(builders, with_token(RuntimeSettings()), listening=listening))
    except StoreUnavailable as error:
        sys.exit(f"trainwright: {error.detail}")


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
    runtime = Runtime(settings)
    services = [build(runtime) for build in builders]
    for service in services:
        await service.store.open()
    topics_ready = asyncio.Event()
    jobs = [_create_topics(runtime.kafka, runtime.clock, topics_ready)]
    for service in services:
        jobs += _bring_up(service, runtime, topics_ready)
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
    _raise_first([*tasks, serving])


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _bring_up(service: Service, runtime: Runtime, topics_ready: asyncio.Event) -> list[Job]:
    kafka, clock = runtime.kafka, runtime.clock
    relay = Relay(service.name, service.store, kafka, clock)
    consumers = [
        ConsumerLoop(Inbound(service.name, topic, handlers, service.store, clock), kafka)
        for topic, handlers in service.reactions.items()
    ]
    health = Health(service.name, service.store, relay, consumers)
    runtime.apps[service.name] = build_app(service, health, token=runtime.settings.internal_token)
    jobs = [_after(topics_ready, run) for run in (relay.run, *(loop.run for loop in consumers))]
    jobs += [_repeat(loop, service.name, clock) for loop in service.loops]
    jobs += [task() for task in service.tasks]
    if service.effects:
        jobs.append(EffectRunner(service.name, service.store, service.effects, clock).run())
    return jobs


async def _create_topics(kafka: Kafka, clock: Clock, ready: asyncio.Event) -> None:
    backoff = Backoff(clock, most=0.5)
    while not ready.is_set():
        try:
            await kafka.ensure_topics()
            ready.set()
        except UNREACHABLE as error:
            logger.info("waiting for Kafka at %s: %r", kafka.bootstrap, error)
            await backoff.wait()
    await asyncio.Event().wait()


async def _after(ready: asyncio.Event, run: Callable[[], Job]) -> None:
    await ready.wait()
    await run()


async def _repeat(loop: Loop, service: str, clock: Clock) -> None:
    while True:
        try:
            await loop.run()
        except Exception:
            logger.exception("%s: %s failed; it is tried again", service, loop.name)
        await clock.sleep(loop.every)


def _server(runtime: Runtime, listening: str) -> _Server:
    config = uvicorn.Config(
        runtime.apps[listening],
        host=runtime.settings.host,
        port=runtime.settings.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws_per_message_deflate=False,  # its windows cost more memory per stream than the short lines save
        timeout_graceful_shutdown=2,
    )
    return _Server(config)


async def _wind_down(tasks: Sequence[asyncio.Task[None]], serving: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    _, late = await asyncio.wait([*tasks, serving], timeout=STOP_TIMEOUT)
    if late:
        # A client that cannot stop must not keep the process: what is committed is in the stores.
        logger.warning("%d parts did not stop in %.0f s", len(late), STOP_TIMEOUT)
        os._exit(0)


def _raise_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
