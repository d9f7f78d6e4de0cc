"""Put the worker together: its home, its identity, its loops; and its orderly end."""

import asyncio
import fcntl
import itertools
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path

from services.trainer_worker import figures, inventory, store
from services.trainer_worker.attempts import Attempts
from services.trainer_worker.commands import CommandReader
from services.trainer_worker.domain import Stop, StopCause
from services.trainer_worker.handlers import CommandHandlers
from services.trainer_worker.heartbeat import PROGRESS_SECONDS, Pulses
from services.trainer_worker.place import SOURCE, Workplace
from services.trainer_worker.publish import Publisher
from services.trainer_worker.settings import WorkerSettings
from trainwright.contracts.base import Event
from trainwright.contracts.command import ConcludeAttempt, RunAttempt, StopAttempt, UpdateParameters
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import COMMAND
from trainwright.contracts.worker import (
    WorkerDocument,
    WorkerDraining,
    WorkerEvent,
    WorkerRegistered,
    WorkerStopped,
)
from trainwright.runtime import engines
from trainwright.runtime.apply import DEAD_LETTERS, Handler, Inbound
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.health import Health
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import announcement, emit
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.runtime.telemetry.scraping import Scrape
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.runtime.waits import Waits
from trainwright.storage.sqlite import SqliteStore
from trainwright.training import layout

logger = logging.getLogger(__name__)

END_SECONDS = 12.0
"""Time to end the runs and say so when the worker is stopped; with what follows it stays under 15 s."""
LEAVE_SECONDS = 1.5
LAST_SPANS = 0.5
ANNOUNCE_SECONDS = 1.0
RETURN_SECONDS = 30.0
"""What is promised at a restart: as long as a run waits for an agent."""
TERM_SECONDS = 3.0
SWEEP_SECONDS = 3600.0
FIRST_BEATS = 10
REGISTER_AGAIN_SECONDS = (10.0, 60.0, 600.0, 3600.0)
"""After a start, then always the last: a registration that was lost on its way would leave this worker unused."""

Job = Callable[[], Coroutine[None, None, None]]


class HomeInUse(Exception):
    """Another agent works in this home."""


class Leave:
    """A request to this agent: to leave for good, or for the moment that it takes to start it again."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.ends_runs = False

    def for_good(self) -> None:
        """Ask it to end its runs and leave."""
        self.ends_runs = True
        self.asked.set()

    def for_a_moment(self) -> None:
        """Ask it to leave its runs alone and go: the next agent finds them."""
        self.asked.set()


class Worker:
    """One agent: built from settings, opened once, run until it is told to leave."""

    def __init__(self, settings: WorkerSettings, runtime: RuntimeSettings, clock: Clock) -> None:
        self._settings = settings
        self._runtime = runtime
        self._clock = clock
        self._waits = Waits(clock)
        self._home = settings.home.absolute()
        self._kafka = Kafka(runtime)
        self._documents = SqliteStore(self._home / "worker.db", (*store.COLLECTIONS, DEAD_LETTERS))
        self._blobs = engines.blobs(runtime)
        self._publisher = Publisher(SOURCE, self._kafka, self._documents, clock)
        self._relay = Relay(SOURCE, self._documents, self._kafka, clock)
        self._sender = PulseSender(SOURCE, self._kafka, clock)
        self._runtime = runtime
        self._lock = -1

    async def run(self, leave: Leave) -> None:
        """Work until asked to leave; then end the runs, or leave them to the next agent, say so, and go.

        Raises:
            HomeInUse: Another agent has this home.
            StoreUnavailable: The worker's own store cannot be opened.
        """
        TRACING.start(self._runtime.otlp_endpoint)
        self._lock = await lock_home(self._home, self._clock)
        await self._documents.open()
        incarnation = self._clock.new_id("incarnation")
        worker, place, attempts = await self._register(incarnation)
        handlers = CommandHandlers(incarnation)
        reactions: dict[type[Event], Handler] = {
            RunAttempt: handlers.on_run_attempt,
            StopAttempt: handlers.on_stop_attempt,
            UpdateParameters: handlers.on_update_parameters,
            ConcludeAttempt: handlers.on_conclude_attempt,
        }
        inbound = Inbound(SOURCE, COMMAND, reactions, self._documents, self._clock)
        commands = CommandReader(worker.worker_id, inbound, self._kafka, attempts.act)
        pulses = Pulses(place, worker, attempts, self._sender)
        self._publisher.on_read, attempts.on_phase = pulses.on_read, pulses.on_phase
        loops: list[Job] = [
            lambda: self._reach(engines.kafka_in_words(self._runtime), self._kafka.ensure_topics),
            lambda: self._reach(engines.blobs_in_words(self._runtime), self._blobs.check),
            attempts.run,
            commands.run,
            self._relay.run,
            self._publisher.run,
            self._sender.run,
            lambda: self._beat(pulses),
            lambda: self._register_again(leave),
            lambda: self._every(PROGRESS_SECONDS / 2, pulses.send_late),
            lambda: self._every(SWEEP_SECONDS, lambda: self._sweep(attempts)),
        ]
        if self._settings.port:
            loops.append(self._serve)
        tasks = [asyncio.create_task(self._keep_alive(loop)) for loop in loops]
        await leave.asked.wait()
        await (self._end(worker, attempts) if leave.ends_runs else self._announce_return(worker))
        await self._leave(tasks, attempts)

    async def _register(self, incarnation: str) -> tuple[WorkerDocument, Workplace, Attempts]:
        """Announce this incarnation with the attempts that it goes on with."""
        known = await store.worker_of(self._documents)
        worker_id = known.worker_id if known is not None else self._clock.new_id("worker")
        layout.write_json(self._home / "worker.json", {"worker_id": worker_id, "incarnation": incarnation})
        place = Workplace(
            worker_id=worker_id,
            incarnation=incarnation,
            folder=self._home / "attempts",
            agent_lock=self._home / "agent.lock",
            settings=self._settings,
            documents=self._documents,
            blobs=self._blobs,
            publisher=self._publisher,
            clock=self._clock,
            trees=inventory.Trees(),
        )
        attempts = Attempts(place)
        adopted = await attempts.adopt()
        found = await inventory.gpus()
        offered = self._settings.gpus
        worker = WorkerDocument(
            worker_id=worker_id,
            incarnation=incarnation,
            version=known.version if known is not None else 0,
            hostname=socket.gethostname(),
            cpus=self._settings.cpus or inventory.cpu_cores(),
            memory=self._settings.memory or inventory.memory_bytes(),
            gpus=[gpu for gpu in found if offered is None or gpu.index in offered],
            labels=self._settings.labels,
            address=self._settings.address,
            ports=self._settings.port_range,
            adopted=[attempt.ref for attempt in adopted],
            registered_at=self._clock.now(),
        )
        return await self._announce(WorkerRegistered, worker), place, attempts

    async def _announce(self, kind: type[WorkerEvent], worker: WorkerDocument) -> WorkerDocument:
        async with self._documents.transaction() as tx:
            known = await store.worker_of(tx)
            version = max(worker.version, known.version if known is not None else 0) + 1
            changed = worker.model_copy(update={"version": version})
            await store.put_worker(tx, changed)
            cause = Cause(derived_id(changed.worker_id, changed.version))
            await emit(tx, [kind(worker=changed)], source=SOURCE, cause=cause, clock=self._clock)
        return changed

    async def _end(self, worker: WorkerDocument, attempts: Attempts) -> None:
        """End the runs so that they are run again; give up waiting for Kafka in time, the store remembers."""
        try:
            async with asyncio.timeout(END_SECONDS):
                draining = await self._announce(WorkerDraining, worker.model_copy(update={"draining": True}))
                grace = self._settings.stop_grace_seconds
                stop = Stop(kind=StopCause.WORKER_STOPS, grace_seconds=grace, term_seconds=TERM_SECONDS)
                attempts.stop_all(stop)
                await attempts.ended()
                await self._announce(WorkerStopped, draining.model_copy(update={"stopped": True}))
                while await self._documents.outbox_depth():
                    await self._clock.sleep(0.02)
        except TimeoutError:
            logger.warning("left before everything could be said; the next start says the rest")
        except StoreUnavailable as error:
            logger.warning("left without a word: %s", error)

    async def _announce_return(self, worker: WorkerDocument) -> None:
        """Say that the runs go on and their agent comes back; without Kafka the next one is there before it is
        missed.
        """
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                leaving = {"draining": True, "returns_within": RETURN_SECONDS}
                await self._announce(WorkerDraining, worker.model_copy(update=leaving))
                while await self._documents.outbox_depth():
                    await self._clock.sleep(0.02)
        except TimeoutError:
            logger.warning("left before Kafka had heard that the agent comes back; the runs go on")
        except StoreUnavailable as error:
            logger.warning("left without a word, the runs go on: %s", error)

    async def _leave(self, tasks: list[asyncio.Task[None]], attempts: Attempts) -> None:
        await attempts.close()
        for task in tasks:
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=LEAVE_SECONDS)
        if late:
            os._exit(0)  # a Kafka client that cannot stop must not keep the process: all is in the store
        await self._documents.close()
        await asyncio.to_thread(TRACING.stop, LAST_SPANS)
        os.close(self._lock)

    async def _keep_alive(self, run: Job) -> None:
        """Run a loop again whatever ends it: an agent never exits because of Kafka."""
        backoff = Backoff(self._clock, first=0.5)
        while True:
            try:
                await run()
            except Exception:
                logger.exception("a loop of the worker failed; it is started again")
            await backoff.wait()

    async def _reach(self, part: str, try_it: Job) -> None:
        await self._waits.reach(part, try_it)
        await asyncio.Event().wait()

    async def _serve(self) -> None:
        from services.trainer_worker import routes  # FastAPI, for those who want it here

        health, scrape = Health(SOURCE, self._documents, self._relay, []), Scrape()
        health.show(scrape)
        figures.show(scrape, self._documents, self._publisher)
        await routes.serve(self._runtime.host, self._settings.port or 0, health, scrape)

    async def _every(self, seconds: float, do: Callable[[], Coroutine[None, None, object]]) -> None:
        while True:
            await do()
            await self._clock.sleep(seconds)

    async def _beat(self, pulses: Pulses) -> None:
        """Beat quickly at first: a heartbeat that overtakes its registration on the log is not listened to."""
        for _ in range(FIRST_BEATS):
            await pulses.beat()
            await self._clock.sleep(self._settings.heartbeat_seconds / FIRST_BEATS)
        await self._every(self._settings.heartbeat_seconds, pulses.beat)

    async def _register_again(self, leave: Leave) -> None:
        """Say again who this is: the same document under another event, which who has heard it ignores."""
        for number in itertools.count():
            await self._clock.sleep(REGISTER_AGAIN_SECONDS[min(number, len(REGISTER_AGAIN_SECONDS) - 1)])
            async with self._documents.transaction() as tx:
                known = await store.worker_of(tx)
                if known is not None and not leave.asked.is_set():
                    event = WorkerRegistered(worker=known)
                    cause = announcement(event, self._clock)
                    await emit(tx, [event], source=SOURCE, cause=cause, clock=self._clock)

    async def _sweep(self, attempts: Attempts) -> None:
        keep = timedelta(hours=self._settings.keep_hours)
        await attempts.sweep(self._clock.now() - keep)


async def lock_home(home: Path, clock: Clock) -> int:
    """Take the home for this process until it ends; return the lock's descriptor.

    Raises:
        HomeInUse: Another agent has it, or it cannot be written.
    """
    try:
        os.makedirs(home, exist_ok=True)
        fd = os.open(home / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HomeInUse(f"the worker's home {home} cannot be used: {error.strerror}") from error
    for _ in range(40):  # a shim that looks for its agent shares the lock for a moment
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            await clock.sleep(0.05)
    else:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise HomeInUse(f"another worker (pid {owner}) works in {home}; give this one a home of its own")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
