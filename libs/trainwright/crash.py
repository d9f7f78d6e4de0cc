"""Crash points: named places in the code at which tests kill the process, let its disk be full, or hold it up.

They are off unless the environment says `CRASH_POINTS`: words of `<point>:<n>:<action>` with spaces between them,
where `n` counts the passings in one process and the action is `kill` (SIGKILL to itself), `full` (OSError, no
space left on the device) or `sleep=<seconds>`. Each word acts once: with `CRASH_NOTES`, a folder in which each
leaves a file before it acts, once over all processes that share it. Off, a point costs one look at a global.

Standard library only, and nothing of the project: the shim runs this file by its path. Not here: what is done
with them (tests/faults).
"""

import errno
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

VARIABLE, NOTES, CODE = "CRASH_POINTS", "CRASH_NOTES", "CRASH_CODE"
KILL, FULL, SLEEP = "kill", "full", "sleep"


class Point(NamedTuple):
    """Where a point is, what a process that is killed there leaves, and whether a full disk can show there."""

    file: str
    left: str
    writes: bool = False


POINTS: Mapping[str, Point] = {
    # The consumer: poll, apply, commit offsets.
    "consumer.polled": Point("runtime/consumer.py", "nothing: the records are read again"),
    "consumer.applied": Point(
        "runtime/consumer.py", "state and outbox; the records are read again and are no news"
    ),
    "consumer.committed": Point("runtime/consumer.py", "all of it, offsets too"),
    "apply.handled": Point("runtime/apply.py", "nothing: the transaction was open"),
    "apply.buried": Point("runtime/apply.py", "a dead letter, whose record is read again"),
    # The relay: rows to records.
    "relay.read": Point("runtime/relay.py", "rows that were not sent"),
    "relay.sending": Point("runtime/relay.py", "rows of which the broker may have some"),
    "relay.acknowledged": Point("runtime/relay.py", "rows that were sent and are not marked: they go out again"),
    "relay.marked": Point("runtime/relay.py", "rows that are marked as sent"),
    # Effects outside.
    "effect.done": Point("runtime/effects.py", "an effect that was had and is not marked: it is had again"),
    "effect.marked": Point("runtime/effects.py", "an effect that is marked as done"),
    # The stores.
    "sqlite.began": Point("storage/sqlite.py", "nothing: the transaction had written nothing"),
    "sqlite.written": Point("storage/sqlite.py", "nothing: the transaction was not committed"),
    "sqlite.committed": Point("storage/sqlite.py", "the transaction; nobody was told"),
    "mongo.written": Point("storage/mongo.py", "a transaction that the server ends"),
    "mongo.committed": Point("storage/mongo.py", "the transaction; nobody was told"),
    # The blobs.
    "directory.aside": Point(
        "storage/directory.py", "a part of a blob beside the others, swept after a day", True
    ),
    "directory.flushed": Point("storage/directory.py", "a whole blob without its name, swept after a day", True),
    "directory.named": Point("storage/directory.py", "a blob of which nobody knows"),
    "s3.hashed": Point("storage/s3.py", "nothing"),
    "s3.put": Point("storage/s3.py", "an object of which nobody knows"),
    # The agent.
    "agent.command_kept": Point("trainer_worker/commands.py", "a command that is read again, and is no news"),
    "agent.prepared": Point("trainer_worker/lead.py", "an attempt without a shim, which is lost", True),
    "agent.started": Point("trainer_worker/lead.py", "a shim of which the store knows nothing; it is adopted"),
    "agent.ended": Point("trainer_worker/lead.py", "an ending that is read again"),
    "agent.reported": Point("trainer_worker/lead.py", "a reported attempt with its checkpoints still here"),
    "agent.sent": Point("trainer_worker/publish.py", "points and lines that are sent again with the same numbers"),
    "agent.checkpoint_stored": Point(
        "trainer_worker/checkpoints.py", "a stored checkpoint that nobody was told of"
    ),
    "agent.bundle_stored": Point("trainer_worker/bundles.py", "files of a result without their manifest", True),
    # The shim.
    "shim.child_started": Point("trainer_worker/shim.py", "a child without a shim.json; it dies with its shim"),
    "shim.child_ended": Point("trainer_worker/shim.py", "no exit.json: the worker is lost"),
    "shim.told": Point("trainer_worker/shim.py", "exit.json, and descendants that are gone"),
    # The run: its checkpoints.
    "checkpoint.files": Point(
        "training/checkpoints.py", "a folder under a temporary name, without manifest", True
    ),
    "checkpoint.manifest": Point("training/checkpoints.py", "a whole folder under a temporary name", True),
    "checkpoint.named": Point("training/checkpoints.py", "a checkpoint that was not stored; swept with its run"),
}


class Plan:
    """What is to happen at which passing; mistakes in it are loud."""

    def __init__(self, text: str, notes: str | None) -> None:
        self._passed: Counter[str] = Counter()
        self._notes = notes
        self._words: dict[tuple[str, int], str] = {}
        for word in text.split():
            name, number, action = word.split(":")
            if name not in POINTS or action.partition("=")[0] not in (KILL, FULL, SLEEP):
                raise ValueError(f"{VARIABLE}: {word!r} is not <point>:<n>:<{KILL}|{FULL}|{SLEEP}=seconds>")
            if action == FULL and not POINTS[name].writes:
                raise ValueError(f"{VARIABLE}: {name} writes nothing to a disk that could be full")
            self._words[name, int(number)] = action

    def passed(self, name: str) -> None:
        """Pass a point, and do what is due there."""
        self._passed[name] += 1
        number = self._passed[name]
        action = self._words.pop((name, number), None)
        if action is None or not self._is_first(f"{name}:{number}:{action}"):
            return
        kind, _, seconds = action.partition("=")
        if kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        else:
            time.sleep(float(seconds))

    def _is_first(self, word: str) -> bool:
        if self._notes is None:
            return True
        try:
            os.close(os.open(os.path.join(self._notes, word), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


_plan: Plan | None = None


def point(name: str) -> None:
    """Pass a point of the table; nothing happens unless the environment asked for it."""
    if _plan is not None:
        _plan.passed(name)


def arm(text: str, notes: str | None = None) -> None:
    """Switch points on in this process, and in the shims and runs that it starts."""
    global _plan
    _plan = Plan(text, notes)
    os.environ[CODE] = __file__


if text := os.environ.get(VARIABLE):
    sys.stderr.write(f"crash points are on: {text}\n")
    arm(text, os.environ.get(NOTES))
