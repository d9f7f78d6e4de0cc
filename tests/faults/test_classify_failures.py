"""The short form of the campaign; all scripts run in `python -m tests.faults.classify_failures`."""

import sys
from pathlib import Path

import pytest

from tests.faults.classify_failures import Result, campaign, matrix
from tests.faults.failures import table
from trainwright.contracts.failure import Failure, FailureClass


@pytest.mark.skipif(sys.platform != "linux", reason="limits and memory groups are Linux's")
def test_real_failures_are_taken_for_what_they_are_and_healthy_runs_left_alone(tmp_path: Path) -> None:
    results = campaign(tmp_path, table.names(short=True))
    wrong = [result.wrong for result in results if result.wrong]
    assert wrong == [], matrix(results)


def test_every_class_has_scripts_and_every_need_a_script() -> None:
    found = table.names()
    assert {table.expected(name) for name in found} == set(table.EXPECTED.values())
    assert set(table.NEEDS) <= set(found)
    assert sum(table.expected(name) is None for name in found) >= 12


def test_the_campaign_sees_a_wrong_class_a_wrong_place_and_a_touched_run() -> None:
    data = Failure(failure_class=FailureClass.DATA_ERROR, message="no")
    elsewhere = Failure(
        failure_class=FailureClass.USER_ERROR, message="no", file="train.py", line=1, hint="Fix it."
    )
    hung = Failure(failure_class=FailureClass.HUNG, message="no")
    for result in (
        Result("user_name", data),
        Result("user_name", elsewhere),
        Result("user_name"),
        Result("hung_join", hung),
        Result("healthy_real_training", touched=True),
        Result("healthy_real_training", hung),
    ):
        assert result.wrong
    counted = [
        line.split() for line in matrix([Result("user_name", data), Result("healthy_real_training")]).splitlines()
    ]
    row = next(line for line in counted if line[0] == "user_error")
    assert row.count("1") == 1
    assert row[1 + counted[0].index("data_error")] == "1"
