"""The short forms, on one platform: what hangs, then what is killed; the long ones are `make faults`."""

import json
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import Campaign, armed
from tests.faults.invariants import broken
from tests.faults.outages import HEAD, Times, play
from tests.faults.place import Place, a_place

SHORT = Times(broker=6, pause=6, lease=4)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages")


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    with a_place(folder, armed(folder / "notes")) as made:
        yield made


def test_a_run_outlives_a_broker_that_hangs_and_is_replaced_when_its_worker_does(place: Place) -> None:
    rows = [play(name, place, SHORT) for name in ("broker-pause", "zombie")]
    assert not any(row.wrong for row in rows), "\n".join([HEAD, *(row.line() for row in rows)])


def test_nothing_is_lost_or_doubled_however_much_is_killed(place: Place, folder: Path) -> None:
    campaign = Campaign(place, folder / "notes", random.Random(7))
    faults = [("everything killed", campaign.everything), ("crash points armed", campaign.crash_points)]
    report = campaign.play(every=5, faults=faults, most_tasks=12)
    assert report.wrong == [], report.table()
    assert report.counts["healthy tasks completed"] >= 5, report.table()
    assert report.counts["tasks that fail by themselves"] >= 1, report.table()
    assert report.counts["everything killed"] == report.counts["crash points armed"] == 1, report.table()
    assert report.counts["kills"] >= 6, report.table()


def lose_a_task(home: Path) -> None:
    change(home, "task", "DELETE FROM c_tasks WHERE id = (SELECT min(id) FROM c_tasks)")


def complete_a_task_twice(home: Path) -> None:
    ((id, line),) = ask(home, "task", "SELECT id, doc FROM c_history WHERE doc LIKE '%completed%' LIMIT 1")
    for number, status in ((90_000_000, "running"), (90_000_001, "completed")):
        again = json.dumps({**json.loads(line), "status": status})
        change(home, "task", "INSERT INTO c_history VALUES (?, ?)", f"{id.partition('/')[0]}/{number}", again)


def register_a_model_twice(home: Path) -> None:
    change(home, "result", "INSERT INTO c_versions SELECT id || '/again', doc FROM c_versions LIMIT 1")


def run_ahead_of_the_owner(home: Path) -> None:
    change(home, "scheduler", "UPDATE c_entries SET doc = json_set(doc, '$.task.version', 100000)")


def leave_a_task_without_a_word(home: Path) -> None:
    change(home, "task", "UPDATE c_tasks SET doc = json_set(doc, '$.status', 'pending', '$.reason', '')")


def damage_a_blob(home: Path) -> None:
    next(path for path in (home / "blobs").glob("??/*") if path.stat().st_size).write_bytes(b"damaged")


def lose_a_blob(home: Path) -> None:
    ((text,),) = ask(home, "result", "SELECT doc FROM c_versions LIMIT 1")
    bundle = json.loads(text)["bundle"]
    (home / "blobs" / bundle[:2] / bundle).unlink()


PLANTED: list[tuple[Callable[[Path], None], str]] = [
    (lose_a_task, "I1"),
    (complete_a_task_twice, "I2"),
    (register_a_model_twice, "I2"),
    (run_ahead_of_the_owner, "I3"),
    (leave_a_task_without_a_word, "I4"),
    (damage_a_blob, "I5"),
    (lose_a_blob, "I5"),
]


@pytest.mark.parametrize(("plant", "promise"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_the_checker_finds_what_is_planted_in_a_home(
    place: Place, tmp_path: Path, plant: Callable[[Path], None], promise: str
) -> None:
    accepted = [id for (id,) in ask(place.home, "task", "SELECT id FROM c_tasks")]
    copy(place.home, tmp_path)
    assert broken(tmp_path, accepted) == []
    plant(tmp_path)
    assert {line.partition(":")[0] for line in broken(tmp_path, accepted)} == {promise}


def copy(home: Path, to: Path) -> None:
    """Copy what lies in a home, whatever runs there: stores first, what they name is in the blobs by then."""
    (to / "services").mkdir()
    for path in (home / "services").glob("*.db"):
        with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(to / "services" / path.name)) as new:
            old.backup(new)
    shutil.copytree(home / "blobs", to / "blobs")


def ask(home: Path, service: str, question: str) -> list[Any]:
    with closing(sqlite3.connect(home / "services" / f"{service}.db")) as database:
        return database.execute(question).fetchall()


def change(home: Path, service: str, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(home / "services" / f"{service}.db")) as database, database:
        assert database.execute(statement, values).rowcount
