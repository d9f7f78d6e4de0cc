"""One thread, a virtual clock, and a seed: what a simulated installation lives in.

The event loop never waits: when nothing is ready, time goes on to the next timer. Everything random comes from
one generator, so a seed replays exactly. Programs (services, agents) have lives; a life that is killed can touch
nothing any more, however its tasks unwind.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from random import Random
from typing import Any

from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import ATTEMPT, COMMAND, QUEUE, TASK, WORKER
from trainwright.storage.memory import MemoryState

START = datetime(2025, 3, 3, 8, 0, tzinfo=UTC)


STORE_POINTS = ("read", "begin", "before commit")
"""Where a store that is away is noticed."""

LOSABLE = tuple(kind.type_name() for topic in (TASK, QUEUE, COMMAND, ATTEMPT, WORKER) for kind in topic.events)


class Crash(BaseException):
    """A program was killed here."""


class Stuck(Exception):
    """Nothing is left that could ever happen."""


OWNER: ContextVar["Program | None"] = ContextVar("owner", default=None)
"""The program that the running task belongs to."""


class _Due(list[Any]):
    """A context to run in, a callback and its arguments, unless it is cancelled: what asyncio calls a handle.

    A list, for those are made at once: nothing is made more often.
    """

    __slots__ = ()

    def cancel(self) -> None:
        self.clear()

    def cancelled(self) -> bool:
        return not self


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time goes on only when everything else is done, and of which programs can be stopped.

    It knows no files and no threads, and so turns several times as fast as asyncio's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._held: dict[Program, list[_Due]] = {}
        self._due: deque[_Due] = deque()
        self._timers: list[tuple[float, int, _Due]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self.seconds

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> _Due:
        due = _Due((copy_context() if context is None else context, callback, *args))
        if self._held and context is not None and (owner := context.get(OWNER)) in self._held:
            self._held[owner].append(due)
        else:
            self._due.append(due)
        return due

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> _Due:
        due = _Due((copy_context() if context is None else context, callback, *args))
        heappush(self._timers, (when, next(self._order), due))
        return due

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> _Due:
        due = _Due((copy_context() if context is None else context, callback, *args))
        heappush(self._timers, (self.seconds + delay, next(self._order), due))
        return due

    def _run_once(self) -> None:
        """Do what is due until somebody stops the loop; asyncio's own ``run_forever`` calls this."""
        due = self._due
        while not self._stopping:  # type: ignore[attr-defined]
            if not due:
                self._go_on()
            one = due.popleft()
            if not one:
                continue
            try:
                one[0].run(*one[1:])
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "a callback failed", "exception": error})

    def _go_on(self) -> None:
        """Go on to the next timer."""
        timers = self._timers
        while timers and not timers[0][2]:
            heappop(timers)
        if not timers:
            raise Stuck
        self.seconds = max(self.seconds, timers[0][0])
        while timers and timers[0][0] <= self.seconds:
            self._due.append(heappop(timers)[2])

    def hold(self, program: "Program") -> None:
        """Let nothing of a program happen any more, as SIGSTOP does; what is due piles up."""
        self._held.setdefault(program, [])

    def let_go(self, program: "Program") -> None:
        """Let a program go on, with all that is due."""
        self._due.extend(self._held.pop(program, []))

    def is_held(self, program: "Program") -> bool:
        return program in self._held


@dataclass(slots=True)
class Chaos:
    """How often what goes wrong, until ``until``. Probabilities are per occasion, gaps in seconds."""

    until: float = 40.0
    crash_at_point: float = 0.003
    crash_every: float = 15.0
    store_away_every: float = 30.0
    kafka_away_every: float = 60.0
    clock_jump_every: float = 15.0
    cut_off_every: float = 20.0
    stop_every: float = 20.0
    duplicate: float = 0.03
    commit_refused: float = 0.025
    slow: float = 0.025
    lost_events: int = 0
    loses: str = ""
    """The only kind of event of which some are lost, then one in two; any kind, one in fifty, if empty."""
    poison: float = 0.002

    @classmethod
    def drawn(cls, seed: int, lost_events: int) -> "Chaos":
        """Return what goes wrong in a seed: of every fourth everything, else about half of it.

        Where one fault is there, others cannot show: a scheduler that is killed all the time gives no worker up.
        """
        loses = LOSABLE[seed // 3 % len(LOSABLE)] if seed % 3 == 1 else ""  # kind by kind
        rng, found = Random(f"chaos {seed}"), cls(lost_events=lost_events, loses=loses)
        if seed % 4 == 0:
            return found
        kinds = [one.name for one in fields(cls) if one.name not in ("until", "lost_events", "loses")]
        spared: dict[str, Any] = dict.fromkeys((name for name in kinds if rng.random() < 0.5), 0.0)
        return replace(found, **spared)


@dataclass(slots=True)
class World:
    """Time, chance, and the programs in it."""

    seed: int
    loop: VirtualLoop
    chaos: Chaos
    random: Random = field(init=False)
    wall_shift: float = 0.0
    programs: list["Program"] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    happened: dict[str, int] = field(default_factory=dict)
    cut_off: dict["Program", float] = field(default_factory=dict)
    """Until when a program cannot reach Kafka, alone."""
    on_commit: Callable[["Program"], None] = field(default=lambda program: None)
    """Told of every commit, at its moment: some promises can only be seen kept then."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    @property
    def now(self) -> float:
        return self.loop.seconds

    @property
    def is_stormy(self) -> bool:
        """Whether things still go wrong."""
        return self.now < self.chaos.until

    def strikes(self, chance: float) -> bool:
        """Return whether something of this probability happens now."""
        return self.loop.seconds < self.chaos.until and self.random.random() < chance

    def loses(self, kind: str) -> bool:
        """Return whether an event of this kind, which is on its way now, never arrives."""
        chaos = self.chaos
        return self.strikes((0.5 if kind == chaos.loses else 0.0) if chaos.loses else 0.02)

    def count(self, what: str) -> None:
        """Count what was injected."""
        self.happened[what] = self.happened.get(what, 0) + 1

    def background(self, job: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Let something go on beside."""
        task = self.loop.create_task(job, context=Context())  # of no program
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def storm(self) -> None:
        """Kill programs, take stores away, set clocks, until it is over; then nothing is wrong any more."""
        chaos = self.chaos
        for every, strike in (
            (chaos.crash_every, self._kill_one),
            (chaos.store_away_every, self._take_a_store),
            (chaos.clock_jump_every, self._set_clock),
            (chaos.cut_off_every, self._cut_off),
            (chaos.stop_every, self._stop_one),
        ):
            if every:
                self.background(self._again(every, strike))
        await asyncio.sleep(chaos.until)

    async def _again(self, every: float, strike: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self.random.expovariate(1 / every))
            if not self.is_stormy:
                return
            strike()

    def _kill_one(self) -> None:
        self.count("program killed")
        self.random.choice(self.programs).kill()

    def _take_a_store(self) -> None:
        self.count("store away")
        self.random.choice(self.programs).store_back_at = self.now + self.random.uniform(0.5, 10)

    def _cut_off(self) -> None:
        self.count("cut off")
        self.cut_off[self.random.choice(self.programs)] = self.now + self.random.choice((3.0, 15.0, 30.0))

    def _stop_one(self) -> None:
        self.count("stopped")
        program = self.random.choice(self.programs)
        program.stopped_until = self.now + self.random.choice((1.0, 5.0, 12.0, 20.0))
        self.loop.hold(program)
        self.loop.call_at(program.stopped_until, self.loop.let_go, program, context=Context())

    def _set_clock(self) -> None:
        self.count("clock set")
        self.wall_shift = self.random.choice((-3600.0, -60.0, 0.0, 60.0, 3600.0))


class SimClock:
    """A program's clock: the world's time, its wall clock as wrong as the world's."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return START + timedelta(seconds=self._world.now + self._world.wall_shift)

    def monotonic(self) -> float:
        return self._world.loop.seconds

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        return asyncio.sleep(seconds)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{self._world.random.getrandbits(48):012x}"

    def random(self) -> float:
        return self._world.random.random()


class Life:
    """One life of a program: from a start to the next kill."""

    def __init__(self, program: "Program") -> None:
        self.program = program
        self.is_over = False
        self._context = Context()
        self._context.run(OWNER.set, program)
        self.tasks: list[asyncio.Task[None]] = []

    def check(self) -> None:
        """Stop whoever still acts for a program that was killed."""
        if self.is_over:
            raise Crash

    def at(self, point: str) -> None:
        """Let something happen to the program or its store, at a named point of it."""
        if self.is_over:
            raise Crash
        program = self.program
        world = program.world
        if point == "after commit":
            world.on_commit(program)
        if point in STORE_POINTS and world.loop.seconds < program.store_back_at:
            raise StoreUnavailable("the simulated store is away")
        if point != "read" and world.strikes(world.chaos.crash_at_point):
            world.count(f"killed: {point}")
            self.program.kill()
            raise Crash

    def spawn(self, job: Coroutine[Any, Any, None]) -> None:
        """Run one of the program's jobs."""
        self.tasks.append(self.program.world.loop.create_task(job, context=self._context.copy()))


class Program:
    """Something that runs, can be killed, and is started again. ``boot`` starts its jobs."""

    def __init__(self, world: World, name: str, state: MemoryState | None = None) -> None:
        self.world = world
        self.name = name
        self.state = MemoryState() if state is None else state
        """What its store holds: it outlives every life."""
        self.store_back_at = 0.0
        self.stopped_until = 0.0
        self.began_at = 0.0
        self.life: Life | None = None
        world.programs.append(self)

    def start(self) -> None:
        """Begin a life."""
        self.life, self.began_at = Life(self), self.world.now
        self.boot(self.life)

    @property
    def well_since(self) -> float:
        """Since when nothing has been wrong with it alone."""
        cut_until = self.world.cut_off.get(self, 0.0)
        return max(self.began_at, self.store_back_at, self.stopped_until, cut_until)

    def boot(self, life: Life) -> None:
        """Start the program's jobs."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the life at once; a supervisor starts the next one after a moment, mostly a short one."""
        if self.life is None:
            return
        self.life.is_over = True
        self.world.loop.let_go(self)
        for task in self.life.tasks:
            task.cancel()
        self.life = None
        rng = self.world.random
        pause = rng.choice((rng.uniform(0.1, 2), rng.uniform(0.1, 12)))
        self.world.loop.call_later(pause, self.start, context=Context())
