"""Rounds of a story told to a service that is killed, cut off and starved meanwhile; after each the checker looks.

    python -m tests.faults.protocol_campaign --rounds 25 --seed 1 --minutes 15

Each round is what (seed, number) says, and is noted in the state file when it is over: what was stopped goes on
there. Not here: the platform as a whole (`campaign.py`).
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.mortal_minio import MortalMinio
from tests.faults.mortal_mongo import MortalMongo
from tests.faults.protocol import MODULE, Service, begin, check, go_on, in_folder, story
from tests.faults.proxy import TcpProxy, proxied_broker
from tests.faults.report import Report
from tests.faults.small_disk import full_for, small_disk
from tests.faults.zygote import Zygote
from tests.minio_server import program
from tests.mongo_server import STAND_IN, has_stand_in
from tests.mongo_server import VARIABLE as MONGO
from trainwright.embedded.kafka import KafkaProcess

TASKS = 100
OF_STAND_IN = 25
"""Tasks of a round on the stand-in for MongoDB, which takes its time."""
KILLS = 60
"""In each round, if the story is not over before."""
REPEATS = 0.2
POINTS = {
    "consumer.polled": 2,
    "consumer.applied": 2,
    "consumer.committed": 2,
    "apply.handled": 60,
    "apply.buried": 2,
    "relay.read": 2,
    "relay.sending": 2,
    "relay.acknowledged": 2,
    "relay.marked": 2,
    "effect.done": 3,
    "effect.marked": 3,
}
"""Points that a record passes, each with the latest passing at which it kills: a process must not get far."""
OF_SQLITE = {"sqlite.began": 6, "sqlite.written": 6, "sqlite.committed": 6}
OF_MONGO = {"mongo.written": 6, "mongo.committed": 6}
OF_FOLDER = {"directory.aside": 3, "directory.flushed": 3, "directory.named": 3}
OF_S3 = {"s3.hashed": 3, "s3.put": 3}
ENDLESS = 10**9
"""An offset that is never reached: the service waits to be killed."""
HEALED_SECONDS = 60.0


@dataclass(slots=True)
class Ground:
    """What all rounds stand on."""

    zygote: Zygote
    broker: KafkaProcess
    proxy: TcpProxy
    mongo: str | None
    """Where a MongoDB answers; each fifth round is played on it."""
    mortal: MortalMongo | None
    """The stand-in, if that is what it is."""
    minio: MortalMinio | None
    """On it each fifth round keeps its blobs."""

    @property
    def kafka(self) -> str:
        """Return the address that clients are told."""
        return f"127.0.0.1:{self.proxy.port}"


class Round:
    """One story, and what happens to the service that is told it."""

    def __init__(self, ground: Ground, folder: Path, seed: int, number: int) -> None:
        self.ground = ground
        self.folder = folder
        self.number = number
        self.chance = random.Random(f"{seed}/{number}")
        self.report = Report()
        self.on_mongo = ground.mongo is not None and number % 5 == 4
        self.on_s3 = ground.minio is not None and number % 5 == 2
        self.tasks = OF_STAND_IN if self.on_mongo and ground.mortal is not None else TASKS
        self.disk = folder / "disk"
        where = in_folder(ground.kafka, self.disk)
        if self.on_mongo:
            assert ground.mongo is not None
            where = replace(where, store=ground.mongo, database=f"round_{seed}_{number}")
        if self.on_s3:
            assert ground.minio is not None
            where = replace(where, blobs=f"s3:round-{seed}-{number}", env=ground.minio.env)
        self.where = where
        self.service: Service | None = None

    def play(self, kills: int) -> Report:
        """Play it, check it, and return what was injected and what was found."""
        told = story(self.tasks, self.chance, REPEATS)
        self.report.count("events", len(told))
        if self.on_mongo:
            self.report.count(f"rounds on {'MongoDB' if self.ground.mortal is None else STAND_IN}")
        if self.on_s3:
            self.report.count("rounds on MinIO")
        with small_disk(self.disk, 64) as is_small:
            steps = self._steps(kills, is_small)
            size = len(told) // len(steps) + 1
            self.service = Service(self.ground.zygote, self.where, asyncio.run(begin(self.ground.kafka, [])))
            for number, step in enumerate(steps):
                part = told[number * size : (number + 1) * size]
                self.service.end = asyncio.run(go_on(self.ground.kafka, part))
                step()
            self.service.end = asyncio.run(go_on(self.ground.kafka, []))
            began = time.monotonic()
            ended = self._to_its_end()
            seconds = time.monotonic() - began
            self.report.longest("seconds until all was over after the healing", seconds)
            found = asyncio.run(check(self.where, self.tasks))
            wrong = found.wrong() + ended
            wrong += [f"I4: {seconds:.0f} s after the healing"] if seconds > HEALED_SECONDS else []
            if self.number % 10 == 9:
                wrong += self._wiped()
        self.report.wrong += [f"round {self.number}: {line}" for line in wrong]
        return self.report

    def _to_its_end(self) -> list[str]:
        """Let the service do all that is left, undisturbed; return what is wrong with how it ended."""
        assert self.service is not None
        try:
            status = self.service.run()
        except TimeoutError as error:
            return [str(error)]
        return [] if status == 0 else [f"it ended with {status}"]

    def _steps(self, kills: int, is_small: bool) -> list[Callable[[], None]]:
        engines = (OF_MONGO if self.on_mongo else OF_SQLITE) | (OF_S3 if self.on_s3 else OF_FOLDER)
        points = {**POINTS, **engines}
        names = [*points] * (kills // len(points) + 1)
        self.chance.shuffle(names)
        steps: list[Callable[[], None]] = []
        for name in names[:kills]:
            word = f"{name}:{self.chance.randint(1, points[name])}:kill"
            steps.append(lambda name=name, word=word: self._kill(f"killed at {name}", word))  # type: ignore[misc]
        others = [self._killed_any_time, self._cut, self._slow, self._paused, self._clock]
        others += [self._broker_killed] if self.number % 5 == 0 else []
        others += [self._minio_killed, self._minio_hung] if self.on_s3 else []
        others += [self._disk_full] if is_small and not self.on_mongo and self.number % 2 == 1 else []
        for other in others:
            steps.insert(self.chance.randrange(len(steps) + 1), other)
        return steps

    def _run(self, what: str, crash: str = "", **how: object) -> None:
        assert self.service is not None
        if how:
            self.service.end = ENDLESS
        try:
            status = self.service.run(crash, **how)  # type: ignore[arg-type]
        except TimeoutError as error:
            self.report.wrong.append(f"round {self.number}: {what}: {error}")
            return
        finally:
            if self.on_mongo and self.ground.mortal is not None:
                self.ground.mortal.die_too()
        if status == -signal.SIGKILL:
            self.report.count(what)
            self.report.count("kills")
        elif status == 0:
            self.report.count("points that were not reached")
        else:
            self.report.wrong.append(f"round {self.number}: {what}: it ended with {status}")

    def _kill(self, what: str, word: str) -> None:
        self._run(what, word)

    def _killed_any_time(self) -> None:
        self._run("killed at any moment", kill_after=0.2 + 0.6 * self.chance.random())

    def _clock(self) -> None:
        hours = self.chance.choice((-3600, 3600))
        self._run(
            "wall clock set by an hour, then killed", clock=hours, kill_after=0.4 + 0.4 * self.chance.random()
        )

    def _cut(self) -> None:
        def cut(pid: int) -> None:
            for _ in range(4):
                time.sleep(0.3 * self.chance.random())
                self.ground.proxy.cut()
            time.sleep(0.3)
            _kill(pid)

        self._run("connections cut, then killed", meanwhile=cut)

    def _slow(self) -> None:
        def slow(pid: int) -> None:
            time.sleep(0.3)
            _kill(pid)

        self.ground.proxy.delay = 0.03
        try:
            self._run("connections slow, then killed", meanwhile=slow)
        finally:
            self.ground.proxy.delay = 0.0

    def _paused(self) -> None:
        broker = self.ground.broker.pid
        assert broker is not None

        def pause(pid: int) -> None:
            time.sleep(0.4 * self.chance.random())
            os.kill(broker, signal.SIGSTOP)
            time.sleep(1 + 2 * self.chance.random())
            os.kill(broker, signal.SIGCONT)
            time.sleep(0.3)
            _kill(pid)

        self._run("broker hung, then killed", meanwhile=pause)

    def _broker_killed(self) -> None:
        def kill(pid: int) -> None:
            time.sleep(0.4 * self.chance.random())
            self.ground.broker.kill()
            self.ground.broker.start()
            self.ground.broker.wait_ready()
            time.sleep(0.5)
            _kill(pid)

        self._run("broker killed and started again, then killed", meanwhile=kill)

    def _minio_killed(self) -> None:
        def kill(pid: int) -> None:
            assert self.ground.minio is not None
            time.sleep(0.4 * self.chance.random())
            self.ground.minio.die()
            time.sleep(0.5)
            _kill(pid)

        self._run("MinIO killed and started again, then killed", meanwhile=kill)

    def _minio_hung(self) -> None:
        def hang(pid: int) -> None:
            assert self.ground.minio is not None
            time.sleep(0.4 * self.chance.random())
            with self.ground.minio.hung():
                time.sleep(1 + self.chance.random())
            time.sleep(0.3)
            _kill(pid)

        self._run("MinIO hung, then killed", meanwhile=hang)

    def _disk_full(self) -> None:
        def fill(pid: int) -> None:
            time.sleep(0.4 * self.chance.random())
            full_for(self.disk, 1.0)
            time.sleep(0.3)
            _kill(pid)

        self._run("disk full, then killed", meanwhile=fill)

    def _wiped(self) -> list[str]:
        """Wipe the broker's log: all that the service has said in the last 24 hours has to be there again."""
        assert self.service is not None
        broker = self.ground.broker
        broker.kill()
        shutil.rmtree(broker.folder / "log")
        broker.start()
        broker.wait_ready()
        self.report.count("broker's log wiped")

        def until_said_again(pid: int) -> None:
            until = time.monotonic() + HEALED_SECONDS
            while time.monotonic() < until and not self._is_whole():
                time.sleep(0.5)
            _kill(pid)

        self.service.end = ENDLESS
        self.service.run(meanwhile=until_said_again)
        found = asyncio.run(check(self.where, self.tasks)).wrong()
        return [f"after the wipe: {line}" for line in found]

    def _is_whole(self) -> bool:
        try:
            return not asyncio.run(check(self.where, self.tasks)).wrong()
        except Exception:  # topics that are not there yet, a store that is being written
            return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def campaign(state: Path, *, rounds: int, seed: int, minutes: float, kills: int = KILLS) -> Report:
    """Play rounds, going on where the state file says; return all that was found so far."""
    whole = Report.read(state)
    until = time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainwright-protocol-")))
        broker, proxy = stack.enter_context(proxied_broker(scratch / "kafka"))
        zygote = stack.enter_context(Zygote(MODULE, state.with_suffix(".log")))
        url, mortal = os.environ.get(MONGO), None
        if url is None and has_stand_in():
            mortal = stack.enter_context(MortalMongo(scratch / "mongo"))
            url = mortal.url
        minio = stack.enter_context(MortalMinio(found, scratch / "minio")) if (found := program()) else None
        ground = Ground(zygote, broker, proxy, url, mortal, minio)
        while whole.rounds < rounds and time.monotonic() < until:
            begun = time.monotonic()
            report = Round(ground, scratch / f"round-{whole.rounds}", seed, whole.rounds).play(kills)
            whole.add(report)
            whole.write(state)
            seconds = time.monotonic() - begun
            sys.stderr.write(f"round {whole.rounds}/{rounds}: {report.counts['kills']} kills, {seconds:.0f} s\n")
            sys.stderr.write("".join(f"  {line}\n" for line in report.wrong))
    return whole


def main() -> None:
    """Play rounds from the command line; exit 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description="Kill a service of the protocol at every point, many times.")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--folder", type=Path, default=Path("build/faults"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted and started goes with it
    state = options.folder / f"protocol-{options.seed}.json"
    whole = campaign(state, rounds=options.rounds, seed=options.seed, minutes=options.minutes)
    sys.stdout.write(whole.table())
    sys.exit(1 if whole.wrong else 0)


if __name__ == "__main__":
    main()
