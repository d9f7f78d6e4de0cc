"""Keep a table of processes running, and end all of them, in order, whatever happens.

One thread and no event loop: it sleeps until a child ends, a signal comes or a start is due. Children end with it
even when it is killed (-9), because each was started through `guard`. Not here: which processes (`programs`).
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from trainwright.embedded import process
from trainwright.embedded.errors import EmbeddedError
from trainwright.embedded.home import Home
from trainwright.embedded.programs import FIRST, LAST, SECOND, Program

BACK_OFF_SECONDS = (0.2, 10.0)
STEADY_SECONDS = 30.0
START_AGAIN_SECONDS = 1.0
START_DEATHS = 5
START_SECONDS = 90.0
FOLLOW_SECONDS = 0.2
"""Between looks at which programs are wanted, where that changes while it runs."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


class Signals:
    """Counts requests to stop and wakes the loop; gives the signals back on exit."""

    def __init__(self) -> None:
        self.stops = 0
        self.last: int | None = None
        self._read, self._write = os.pipe()

    def __enter__(self) -> "Signals":
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stops += 1
        self.last = number

    def sleep(self, seconds: float) -> None:
        """Sleep until a signal comes (a child's end is one), at most ``seconds``."""
        select.select([self._read], [], [], max(seconds, 0))
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass


class Child:
    """One program of the table: its process now, and when it is started next."""

    def __init__(self, program: Program, home: Home) -> None:
        self.program = program
        self.log = home.log(program.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.mark: str | None = None
        self.since = 0.0
        self.next_start = 0.0
        self.back_off = BACK_OFF_SECONDS[0]
        self.deaths = 0
        self.last_exit: int | str | None = None
        self.leaving: float | None = None
        """Since when it shall end and not be started again."""

    @property
    def running(self) -> bool:
        """Return whether its process runs, as far as is known."""
        return self.process is not None

    def start(self, now: float) -> None:
        """Start it; a start that fails counts as a death."""
        try:
            self.process = process.spawn(
                self.program.command,
                log=self.log,
                environment=self.program.environment,
                folder=self.program.folder,
                nice=self.program.nice,
            )
        except OSError as error:
            self._died(now, error.strerror or "cannot be started")
            return
        self.mark = process.started(self.process.pid)
        self.since = now

    def reap(self, now: float) -> bool:
        """Notice that its process has ended; return whether it just did."""
        if self.process is None or (code := self.process.poll()) is None:
            return False
        self.process = None
        self._died(now, code)
        return True

    def _died(self, now: float, how: int | str) -> None:
        least, most = BACK_OFF_SECONDS
        self.last_exit = how
        if how == 0 and now - self.since > START_AGAIN_SECONDS and not self.program.once:
            self.next_start = now  # it left in order, to be started again: an announced restart, not a death
            return
        if self.since and now - self.since > STEADY_SECONDS:
            self.back_off = least
        self.deaths += 1
        self.next_start = float("inf") if self.program.once else now + self.back_off
        self.back_off = min(self.back_off * 2, most)

    def terminate(self) -> None:
        """Ask its process to end, if it runs."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """End its process at once, if it runs."""
        if self.process is not None:
            process.kill_group(self.process.pid)

    def leave(self, now: float) -> None:
        """End it for good: in order, or by force when it takes too long."""
        if self.leaving is None:
            self.leaving = now
            self.terminate()
        elif now - self.leaving > self.program.stop_seconds:
            self.kill()

    def document(self) -> dict[str, object]:
        """Return what `status` shows."""
        return {
            "name": self.program.name,
            "pid": self.process.pid if self.process else None,
            "started": self.mark if self.process else None,
            "port": self.program.port,
            "deaths": self.deaths,
            "last_exit": self.last_exit,
        }


class Supervisor:
    """Runs the programs until it is told to stop.

    ``ready`` is asked until it says yes; ``after_ready`` may then name more programs. ``wanted`` names, again and
    again, those that come and go while it runs. ``state`` is written to the home with every change. ``killed``
    says whether stopping took force.
    """

    def __init__(
        self,
        home: Home,
        programs: Sequence[Program],
        *,
        ready: Callable[[], bool],
        signals: Signals,
        say: Say = lambda _line: None,
        state: dict[str, object] | None = None,
        after_ready: Sequence[Program] = (),
        wanted: Callable[[], Sequence[Program]] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.home = home
        self.children = [Child(program, home) for program in programs]
        self.is_ready = False
        self.was_ready = False
        self.killed = False
        self._ready = ready
        self._signals = signals
        self._say = say
        self._state = state or {}
        self._after_ready = after_ready
        self._wanted = wanted
        self._coming_and_going: set[str] = set()
        self._not_known = ""
        self._start_seconds = start_seconds

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Keep everything running until a signal asks to stop, then stop everything.

        Raises:
            EmbeddedError: A process does not come up; the rest has been stopped by then.
        """
        try:
            for child in self.children:
                process.rotate(child.log)
            self._start(on_ready)
            while not self._signals.stops:
                self._signals.sleep(self._tick())
        finally:
            self.stop()

    def _start(self, on_ready: Callable[[], None]) -> None:
        began = time.monotonic()
        while not self._signals.stops and not self.is_ready:
            self._tick()
            if self._ready():
                self.is_ready = self.was_ready = True
                self.children += [Child(program, self.home) for program in self._after_ready]
                self._tick()
                self._write_state()
                on_ready()
                return
            self._give_up_on_hopeless(time.monotonic() - began)
            self._signals.sleep(0.05)

    def _give_up_on_hopeless(self, seconds: float) -> None:
        for child in self.children:
            if child.deaths >= START_DEATHS:
                raise EmbeddedError(
                    f"{child.program.name} ended {child.deaths} times while starting ({child.last_exit}); "
                    f"the end of {child.log}:\n{process.tail(child.log)}"
                )
        if seconds > self._start_seconds:
            logs = "\n".join(f"{child.log}:\n{process.tail(child.log, 5)}" for child in self.children)
            raise EmbeddedError(f"Trainwright was not ready after {seconds:.0f} s; the ends of its logs:\n{logs}")

    def _tick(self) -> float:
        """Notice who ended, start who is due; return the seconds until the next start is."""
        now = time.monotonic()
        changed = self._follow(now)
        for child in self.children:
            if child.reap(now):
                changed = True
                if not child.program.once and child.leaving is None:
                    self._say(f"{child.program.name} ended ({_how(child.last_exit)}); it is started again")
            if not child.running and now >= child.next_start and child.leaving is None:
                child.start(now)
                changed = True
        if changed:
            self._write_state()
        waiting = [child.next_start for child in self.children if not child.running and child.leaving is None]
        return min([*waiting, now + (60.0 if self._wanted is None else FOLLOW_SECONDS)]) - now

    def _follow(self, now: float) -> bool:
        """Take in programs that are wanted now, let go of those that are not; return whether one changed."""
        if self._wanted is None:
            return False
        try:
            wanted = {program.name: program for program in self._wanted()}
        except EmbeddedError as error:  # then all stays as it is
            if str(error) != self._not_known:
                self._say(str(error))
            self._not_known = str(error)
            return False
        self._not_known = ""
        gone = [child for child in self.children if child.leaving is not None and not child.running]
        for child in gone:
            self.children.remove(child)
        for child in self.children:
            if child.program.name in self._coming_and_going - wanted.keys() or child.leaving is not None:
                child.leave(now)
        there = {child.program.name for child in self.children}
        new = [program for name, program in wanted.items() if name not in there]
        for program in new:
            self.children.append(Child(program, self.home))
            process.rotate(self.children[-1].log)
        self._coming_and_going |= wanted.keys()
        return bool(gone or new)

    def stop(self) -> None:
        """Stop all in order: agents, services, Kafka; one more signal meanwhile kills what is left."""
        self.is_ready = False
        asked = self._signals.stops
        for stage in (FIRST, SECOND, LAST):
            children = [child for child in self.children if child.program.stage == stage and child.running]
            for child in children:
                child.terminate()
            with self._killed_at_last(children):
                now = time.monotonic()
                deadlines = {id(child): now + child.program.stop_seconds for child in children}
                while any(child.running for child in children):
                    now = time.monotonic()
                    for child in children:
                        child.reap(now)
                        if child.running and (now > deadlines[id(child)] or self._signals.stops > asked):
                            child.kill()
                            self.killed = True
                    if any(child.running for child in children):
                        self._signals.sleep(0.1)
        self._write_state()

    @contextlib.contextmanager
    def _killed_at_last(self, children: Sequence[Child]) -> Iterator[None]:
        try:
            yield
        finally:
            for child in children:
                child.kill()
                if child.process is not None:
                    child.process.wait()

    def _write_state(self) -> None:
        shown = [c for c in self.children if c.running or not (c.program.once or c.leaving is not None)]
        state = {**self._state, "ready": self.is_ready, "processes": [child.document() for child in shown]}
        try:
            self.home.write_state(state)
        except EmbeddedError as error:  # a full disk must not end what runs
            self._say(str(error))


def _how(code: int | str | None) -> str:
    if isinstance(code, int) and code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if isinstance(code, int) else str(code)
