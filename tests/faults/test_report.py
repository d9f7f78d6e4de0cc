"""A campaign that was stopped goes on with what it had found."""

from pathlib import Path

from tests.faults.report import Report


def test_what_was_found_is_there_at_the_next_start_and_nothing_wrong_is_forgotten(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    whole, first, second = Report.read(state), Report(), Report(wrong=["round 1: 1 lost"])
    first.count("kills", 3)
    first.longest("seconds", 2.0)
    second.count("kills")
    second.longest("seconds", 1.0)
    for report in (first, second):
        whole.add(report)
        whole.write(state)
        whole = Report.read(state)
    assert (whole.rounds, whole.counts["kills"], whole.longests) == (2, 4, {"seconds": 2.0})
    table = state.with_suffix(".md").read_text()
    assert "| kills | 4 |" in table
    assert "| promises that did not hold | 1 |" in table
    assert "round 1: 1 lost" in table
