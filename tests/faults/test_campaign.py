"""What the campaign draws and how it judges endings; that it runs, and holds, is in test_outages."""

import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from tests.faults import doomed
from tests.faults.campaign import ARMED, AT_A_TIME, NAMES, WORDS, Campaign, Turns, armed_before, words_of
from tests.faults.place import Place
from tests.faults.report import Report
from trainwright.contracts.failure import FailureClass

USER, LOST, UNKNOWN = FailureClass.USER_ERROR, FailureClass.WORKER_LOST, FailureClass.UNKNOWN


@pytest.mark.parametrize("seed", range(5))
def test_every_crash_point_gets_its_turn_before_any_has_a_second_one_also_over_rounds(seed: int) -> None:
    whole, drawn = Report(), list[str]()
    while len(drawn) < 2 * len(NAMES):  # each round on a platform of its own, with fewer turns than points
        turns = Turns(NAMES, random.Random(f"{seed}/{whole.rounds}"), armed_before(whole))
        report = Report()
        for _ in range(2 * AT_A_TIME):
            drawn.append(turns.next())
            report.count(f"{ARMED}{drawn[-1]}")
        whole.add(report)
    assert set(drawn[: len(NAMES)]) == set(NAMES)
    assert set(Counter(drawn[: 2 * len(NAMES)]).values()) == {2}
    assert drawn[: len(NAMES)] != sorted(drawn[: len(NAMES)]), "by lot"


def test_a_point_that_killed_nobody_has_its_turn_again(tmp_path: Path) -> None:
    campaign = Campaign(cast("Place", None), tmp_path, random.Random(1))
    for name in NAMES:
        for word in words_of(name):
            (tmp_path / word).touch()
    campaign.arm(len(NAMES) - 1)
    hit = campaign.armed[0]
    (tmp_path / hit).touch()  # as who dies there does
    campaign.disarm()
    assert campaign.report.counts["kills"] == campaign.report.counts[f"killed at {hit.partition(':')[0]}"] == 1
    campaign.arm(len(NAMES) - 1)
    assert {word.partition(":")[0] for word in campaign.armed} == set(NAMES) - {hit.partition(":")[0]}
    campaign.disarm()
    assert all((tmp_path / word).exists() for word in WORDS)


def task(status: str, *classes: str | None) -> dict[str, Any]:
    attempts = [{"failure_class": one} for one in classes]
    return {"task_id": "task-1", "name": "some", "status": status, "reason": "why", "attempts": attempts}


@pytest.mark.parametrize(
    ("ended", "own"),
    [
        (task("completed", None), None),
        (task("completed", LOST, UNKNOWN, None), None),
        (task("failed", *[UNKNOWN] * 4), None),
        (task("failed", USER), USER),
        (task("failed", LOST, None, USER), USER),
    ],
)
def test_who_ends_by_what_it_is_or_by_what_was_done_to_it_ends_well(
    ended: dict[str, Any], own: FailureClass | None
) -> None:
    assert doomed.wrong_ending(ended, own) is None


@pytest.mark.parametrize(
    ("ended", "own"),
    [
        (task("failed", LOST), USER),
        (task("failed", USER, LOST), USER),
        (task("failed", FailureClass.DATA_ERROR, USER), USER),
        (task("failed", UNKNOWN), USER),
        (task("completed", None), USER),
        (task("cancelled", None), None),
        (task("failed", None), None),
        (task("failed", USER), None),
        (task("completed", USER, None), None),
    ],
)
def test_a_class_that_is_not_its_own_is_found(ended: dict[str, Any], own: FailureClass | None) -> None:
    assert doomed.wrong_ending(ended, own)


def test_every_class_that_a_script_can_have_by_itself_is_among_those_that_fail() -> None:
    own = set(FailureClass) - {FailureClass.WORKER_LOST, FailureClass.PREEMPTED}
    assert {doomed.expected(script) for script in doomed.SCRIPTS} == own
