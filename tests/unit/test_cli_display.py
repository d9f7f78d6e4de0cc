"""What runs and strangers wrote, shown to people: nothing of it moves the terminal, and nothing breaks a view."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trainwright.cli import outcome
from trainwright.cli.console import CELL, CommandError, complain, fact, one_line, table
from trainwright.cli.outcome import show_errors
from trainwright.cli.session import again, take_shared_options
from trainwright.cli.watch import Bar
from trainwright.contracts.attempt import Failure, FailureClass
from trainwright.contracts.task import Progress, TaskConfig, TaskView

HOSTILE = "a\x1b[2J\x1b]0;owned\x07[/red]\0\nsecond line"


def a_task(**fields: Any) -> TaskView:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    known: dict[str, Any] = {"task_id": "task-3f9c1a7be042", "name": "x", "recipe": "script", "status": "running"}
    known |= {"phase": "training", "config": TaskConfig(recipe="script"), "created_at": now, "version": 1}
    return TaskView.model_construct(**{"progress": Progress(), **known, **fields})


def test_a_cell_is_one_short_line_without_controls() -> None:
    assert one_line(HOSTILE) == "a[/red]\ufffd …"
    assert one_line("\tplain") == " plain"
    assert len(one_line("x" * 5000)) == CELL + 2


def test_a_table_takes_any_name_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    table(("STEP", "[/x]"), [(1, HOSTILE)], "nothing")
    show_errors({"[/mae]": 1.0, "baseline": {"name": "[bold]", "[/mae]": 2.0}})
    shown = capsys.readouterr().out
    assert "[/x]" in shown
    assert "[/mae]" in shown
    assert "[bold]" in shown
    assert "\x1b" not in shown
    assert "second line" not in shown


def test_a_bar_takes_any_metric_and_reason_as_text() -> None:
    with Bar() as bar:
        bar.show(a_task(latest_metrics={"[/loss]": 1.0}, reason=HOSTILE, attempt=1, eta_seconds=None))


def test_a_failure_says_class_place_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(
        failure_class=FailureClass.USER_ERROR,
        message="ValueError: one\n\ntwo\x1b[31m",
        file="train.py",
        line=3,
        hint="Fix it.",
    )
    assert outcome.why(failure) == ["user_error: ValueError: one", "two", "at train.py:3", "Fix it."]
    fact("failure", "\n".join(outcome.why(failure)))
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "failure      user_error: ValueError: one"
    assert second == "             two"


def test_a_complaint_repeats_no_escape(capsys: pytest.CaptureFixture[str]) -> None:
    complain("no task 'a\x1b[2J'")
    assert capsys.readouterr().err == "trainwright: no task 'a'\n"


def test_the_next_command_means_the_same_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again("down") == "trainwright down"
    monkeypatch.setenv("TRAINWRIGHT_HOME", "")
    monkeypatch.setattr("trainwright.cli.session._given", {})
    assert take_shared_options(["up", "--home", "/a b", "--detach"]) == ["up", "--detach"]
    assert again("down") == "trainwright down --home '/a b'"
    with pytest.raises(CommandError, match="--key needs a value") as caught:
        take_shared_options(["task", "list", "--key"])
    assert caught.value.exit_code == 2
