"""The short form of the campaign, and that it finds what it looks for; the full one is `make faults`."""

from pathlib import Path

from tests.faults.kill_points import campaign


def test_a_run_that_is_ended_and_resumed_ends_the_same(tmp_path: Path) -> None:
    report = campaign("arrays", tmp_path, kills=8, seed=1)
    assert report.wrong == [], report.table()
    assert report.good_points == report.points >= 8


def test_a_run_that_forgets_the_random_generators_is_found(tmp_path: Path) -> None:
    report = campaign("arrays", tmp_path, kills=20, seed=3, planted="random")
    assert any("weights.npz" in wrong for wrong in report.wrong), report.table()
