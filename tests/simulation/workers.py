"""Workers of a simulation: the real command handlers, relay and pulses around runs that only count their steps.

What a real agent does with shims, files and locks is acted out here: a run lives on when its agent is killed, is
adopted by the next one, ends by itself after 30 s without an agent, saves checkpoints, stops when asked, and fails
as the plan of its task says. Runs of a gang go on together: one that has lost another stands still, and after a
while may fail for it. Not here: the real agent (`tests/integration/test_worker_*`).
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from services.trainer_worker import gang, store
from services.trainer_worker.domain import Attempt, AttemptState, Read, Stop, StopCause
from services.trainer_worker.handlers import CommandHandlers
from services.trainer_worker.heartbeat import ENDED_FOR
from services.trainer_worker.place import SOURCE
from services.trainer_worker.service import REGISTER_AGAIN_SECONDS
from services.trainer_worker.verdict import Verdict, infrastructure, stopped
from tests.simulation.bus import FETCH, SimKafka, SimLog
from tests.simulation.world import Life, Program, SimClock, World
from trainwright.contracts.attempt import AttemptEnded, AttemptEvent, AttemptStarted, CheckpointSaved, Outcome
from trainwright.contracts.checkpoint import Checkpoint, kept_of
from trainwright.contracts.command import ConcludeAttempt, RunAttempt, StopAttempt
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.topics import COMMAND
from trainwright.contracts.worker import WorkerDocument, WorkerRegistered
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply, apply_each
from trainwright.runtime.clock import derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import announcement, emit
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.relay import Relay
from trainwright.storage.memory import MemoryStore

ALONE_SECONDS = 30.0
MANIFEST = "0" * 64
PEER_LOST = Failure(
    failure_class=FailureClass.USER_ERROR,
    exception="RuntimeError",
    message="gloo: Connection closed by peer",
)
MACHINE_DOWN = Verdict(Outcome.INTERRUPTED, infrastructure(FailureClass.WORKER_LOST, "the machine went down"))


@dataclass(slots=True)
class Plan:
    """How the runs of a task go: seconds a step takes, steps in all, and failures by attempt."""

    total: int
    pace: float
    fails: Mapping[int, FailureClass] = field(default_factory=dict)
    runs: dict[int, dict[int, "SimRun"]] = field(default_factory=lambda: defaultdict(dict))
    """What was started, by attempt and rank."""


@dataclass(slots=True)
class SimRun:
    """One process tree: what it has reached, saved, and how it ended."""

    task_id: str
    attempt: int
    step: int
    rank: int = 0
    size: int = 1
    saved: list[int] = field(default_factory=list)
    stop: Stop | None = None
    verdict: Verdict | None = None


class SimWorker(Program):
    """A machine with an agent; the agent can be killed, and now and then the machine goes down with it."""

    def __init__(self, world: World, log: SimLog, name: str, cpus: float, plans: Mapping[str, Plan]) -> None:
        super().__init__(world, name)
        self.cpus = cpus
        self.runs: dict[str, SimRun] = {}
        self.begun: list[SimRun] = []
        """Every run that was ever started here."""
        self.changed = asyncio.Event()
        """Set whenever a run or a command says something that the agent has to act on."""
        self._log = log
        self._plans = plans

    def boot(self, life: Life) -> None:
        agent = _Agent(self, life, self._log)
        life.spawn(agent.run())

    def kill(self) -> None:
        """End the agent's life; in the storm, one time in four, its runs die too: the machine restarts."""
        if self.life is not None and self.world.is_stormy and self.world.random.random() < 0.25:
            self.world.count("machine down")
            for run in self.runs.values():
                run.verdict = run.verdict or MACHINE_DOWN
            self.runs.clear()
        super().kill()

    def begin(self, attempt: Attempt) -> SimRun:
        """Start a run, from the newest checkpoint that there is."""
        step = max((one.step for one in attempt.resume_from), default=0)
        run = SimRun(attempt.task_id, attempt.attempt, step, attempt.rank, len(attempt.members) or 1)
        plan = self._plans[attempt.task_id]
        plan.runs[attempt.attempt][attempt.rank] = run
        self.runs[attempt.key] = run
        self.begun.append(run)
        self.world.background(self._live(run, plan))
        return run

    async def _live(self, run: SimRun, plan: Plan) -> None:
        fails = plan.fails.get(run.attempt) if run.attempt % run.size == run.rank else None
        fails_at = run.step + self.world.random.randint(1, max(1, plan.total - run.step))
        alone, still, patience = 0.0, 0.0, self.world.random.choice((5.0, 60.0)) if run.size > 1 else 0.0
        while run.verdict is None:
            await asyncio.sleep(plan.pace)
            alone = alone + plan.pace if self.life is None else 0.0
            others = [one.verdict for rank, one in plan.runs[run.attempt].items() if rank != run.rank]
            stands = len(others) + 1 < run.size or any(others)
            still = still + plan.pace if stands else 0.0
            run.step += not stands
            if fails is not None and run.step >= fails_at:
                failure = Failure(failure_class=fails, message="as planned")
                run.verdict = Verdict(Outcome.FAILED, failure)
            elif alone >= ALONE_SECONDS:
                run.verdict = Verdict(Outcome.INTERRUPTED, infrastructure(FailureClass.WORKER_LOST, "no agent"))
            elif run.step >= plan.total or any(one and one.outcome is Outcome.COMPLETED for one in others):
                run.verdict = Verdict(Outcome.COMPLETED)
            elif run.stop is not None:
                if run.stop.kind in (StopCause.PAUSE, StopCause.PREEMPT, StopCause.WORKER_STOPS):
                    run.saved.append(run.step)
                run.verdict = stopped(run.stop)
            elif stands and still >= patience:
                run.verdict = Verdict(Outcome.FAILED, PEER_LOST)
            elif run.step % 5 == 0 and not stands:
                run.saved.append(run.step)
            else:
                continue
            self.changed.set()


class _Agent:
    """One life of an agent."""

    def __init__(self, worker: SimWorker, life: Life, log: SimLog) -> None:
        self._worker = worker
        self._life = life
        self._log = log
        self._clock = SimClock(worker.world)
        kafka: Any = SimKafka(log, life)
        collections = (*store.COLLECTIONS, DEAD_LETTERS)
        self._store = MemoryStore(collections, life.at, worker.state)
        self._relay = Relay(SOURCE, self._store, kafka, self._clock)
        self._sender = PulseSender(SOURCE, kafka, self._clock)
        self._incarnation = self._clock.new_id("incarnation")
        self._told: dict[str, float] = {}
        """When an end that waits for those of others was last told, by attempt."""

    async def run(self) -> None:
        """Register, then keep reading, leading and beating."""
        while True:
            try:
                worker = await self._register()
                break
            except StoreUnavailable:
                await asyncio.sleep(0.5)
        for job in (self._relay.run, self._sender.run, self._read_commands, self._lead_for_ever):
            self._life.spawn(job())
        self._life.spawn(self._beat(worker))
        self._life.spawn(self._register_again(worker))

    async def _register(self) -> WorkerDocument:
        known = await store.worker_of(self._store)
        adopted = []
        for attempt in await store.live_attempts(self._store):
            if attempt.state is AttemptState.ENDED or attempt.key in self._worker.runs:
                adopted.append(attempt)
            else:
                async with self._store.transaction() as tx:
                    gone = {"state": AttemptState.LOST, "reported_at": self._clock.now()}
                    await store.put_attempt(tx, attempt.model_copy(update=gone))
        worker = WorkerDocument(
            worker_id=self._worker.name,
            incarnation=self._incarnation,
            version=known.version + 1 if known is not None else 1,
            cpus=self._worker.cpus,
            hostname="simulated",
            memory=2**36,
            adopted=[attempt.ref for attempt in adopted],
            registered_at=self._clock.now(),
        )
        async with self._store.transaction() as tx:
            await store.put_worker(tx, worker)
            cause = Cause(derived_id(worker.worker_id, worker.version))
            await emit(tx, [WorkerRegistered(worker=worker)], source=SOURCE, cause=cause, clock=self._clock)
        return worker

    async def _register_again(self, worker: WorkerDocument) -> None:
        for seconds in itertools.chain(REGISTER_AGAIN_SECONDS, itertools.repeat(REGISTER_AGAIN_SECONDS[-1])):
            await asyncio.sleep(seconds)
            event = WorkerRegistered(worker=worker)
            with suppress(StoreUnavailable):
                async with self._store.transaction() as tx:
                    cause = announcement(event, self._clock)
                    await emit(tx, [event], source=SOURCE, cause=cause, clock=self._clock)

    async def _read_commands(self) -> None:
        handlers = CommandHandlers(self._incarnation)
        reactions: dict[Any, Any] = {
            RunAttempt: handlers.on_run_attempt,
            StopAttempt: handlers.on_stop_attempt,
            ConcludeAttempt: handlers.on_conclude_attempt,
        }
        inbound = Inbound(SOURCE, COMMAND, reactions, self._store, self._clock)
        while True:
            try:
                is_end = await self._read_some(inbound)
            except StoreUnavailable:
                await asyncio.sleep(0.5)
                continue
            if is_end:
                await self._log.news(COMMAND.name, 30)
            else:
                await asyncio.sleep(FETCH)

    async def _read_some(self, inbound: Inbound) -> bool:
        """Keep what waits of this worker's commands, then the position; return whether that was all."""
        if self._log.is_away(self._worker):
            raise StoreUnavailable("the simulated broker is away")
        known = await store.command_position(self._store)
        start, key = known["offset"] if known else 0, self._worker.name.encode()
        partition = self._log.partition(COMMAND.name, key)
        batch = self._log.records[COMMAND.name][partition][start:]
        mine = [record for record in batch if record.key == key]
        try:
            await apply(mine, inbound)
        except StoreUnavailable:
            raise
        except Exception:
            await apply_each(mine, inbound)
        if batch:
            async with self._store.transaction() as tx:
                await store.put_command_position(tx, "simulated", partition, start + len(batch))
        if mine:
            self._worker.changed.set()
        return len(self._log.records[COMMAND.name][partition]) <= start + len(batch)

    async def _lead_for_ever(self) -> None:
        while True:
            try:
                for attempt in await store.live_attempts(self._store):
                    await self._lead(attempt)
            except StoreUnavailable:
                await asyncio.sleep(0.5)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._worker.changed.wait()
            self._worker.changed.clear()
            await asyncio.sleep(0.05)

    async def _lead(self, attempt: Attempt) -> None:
        run = self._worker.runs.get(attempt.key)
        if attempt.state is AttemptState.ACCEPTED:
            if run is None and attempt.stop is not None:
                await self._end(attempt, stopped(attempt.stop))
                return
            run = run or self._worker.begin(attempt)
            changes = {"state": AttemptState.RUNNING, "started_at": self._clock.now(), "resume_step": run.step}
            await self._change(attempt, AttemptStarted if attempt.speaks else None, changes)
            self._worker.changed.set()
        elif attempt.state is AttemptState.RUNNING:
            assert run is not None
            run.stop = attempt.stop
            await self._keep_checkpoints(attempt, run)
            if run.verdict is not None:
                await self._end(attempt, run.verdict)
        else:
            if run is not None:
                await self._keep_checkpoints(attempt, run)
            changes = {"state": AttemptState.REPORTED, "reported_at": self._clock.now()}
            if attempt.speaks and attempt.members:
                of_all = gang.said_of_all(attempt)
                if of_all is None:
                    await self._tell_again(attempt)
                    return
                changes |= {"outcome": of_all.outcome, "failure": of_all.failure}
            await self._change(attempt, AttemptEnded if attempt.speaks else None, changes)
            self._worker.runs.pop(attempt.key, None)

    async def _tell_again(self, attempt: Attempt) -> None:
        now = self._clock.monotonic()
        if now - self._told.setdefault(attempt.key, now) > gang.TOLD_EVERY:
            self._told[attempt.key] = now
            await self._change(attempt, MemberEnded, {})

    async def _keep_checkpoints(self, attempt: Attempt, run: SimRun) -> None:
        if not attempt.speaks:
            return
        known = {one.step for one in attempt.checkpoints}
        for step in [step for step in run.saved if step > max(known, default=0)]:
            one = Checkpoint(step=step, attempt=run.attempt, manifest=MANIFEST, saved_at=self._clock.now())
            attempt = await self._change(
                attempt, CheckpointSaved, {"checkpoints": kept_of([*attempt.checkpoints, one])}
            )

    async def _end(self, attempt: Attempt, verdict: Verdict) -> None:
        news = {"outcome": verdict.outcome, "failure": verdict.failure, "ended_at": self._clock.now()}
        kind = MemberEnded if attempt.members else None
        await self._change(attempt, kind, {"state": AttemptState.ENDED, **news})
        self._worker.changed.set()

    async def _change(
        self, attempt: Attempt, kind: type[AttemptEvent | MemberEnded] | None, changes: dict[str, Any]
    ) -> Attempt:
        async with self._store.transaction() as tx:
            fresh = await store.attempt_of(tx, attempt.key) or attempt
            if kind is CheckpointSaved and fresh.is_fenced:
                return fresh
            said = {"version": fresh.version + 1} if kind is not None else {}
            changed = fresh.model_copy(update={**changes, **said})
            await store.put_attempt(tx, changed)
            if kind is not None:
                event = gang.event_of(kind, changed, self._worker.name, self._incarnation, Read())
                cause = Cause(derived_id(self._worker.name, changed.key, changed.version))
                await emit(tx, [event], source=SOURCE, cause=cause, clock=self._clock)
        return changed

    async def _beat(self, worker: WorkerDocument) -> None:
        while True:
            try:
                beat = WorkerHeartbeat(
                    worker_id=worker.worker_id,
                    incarnation=self._incarnation,
                    time=self._clock.now(),
                    running=await store.live_refs(self._store),
                    ended=await store.reported_since(self._store, self._clock.now() - ENDED_FOR),
                )
                self._sender.send("heartbeat", beat)
            except StoreUnavailable:
                pass
            await asyncio.sleep(2)
