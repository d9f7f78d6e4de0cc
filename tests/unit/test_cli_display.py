"""What runs and strangers wrote, shown to people: nothing of it moves the terminal, and nothing breaks a view."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trainwright.cli import outcome, story
from trainwright.cli.console import CELL, CommandError, complain, fact, one_line, table
from trainwright.cli.outcome import show_errors
from trainwright.cli.session import again, take_shared_options
from trainwright.cli.watch import Bar, PlainLines
from trainwright.contracts.checkpoint import Checkpoint, CheckpointKind, CheckpointView
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.task import AttemptSummary, HistoryEntry, MemberSummary, Progress, Repair, TaskView
from trainwright.contracts.task_config import TaskConfig

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


def test_in_a_narrow_terminal_a_long_name_is_cut_and_never_an_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    rows = [("task-3f9c1a7be042", "long-" * 30, "failed", "KeyError: 'b20' " * 5)]
    table(("ID", "NAME", "STATUS", "REASON"), rows, "nothing")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("task-3f9c1a7be042  long-")
    assert "failed" in lines[1]
    assert (lines[1].count("…"), len(lines)) == (2, 2)


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


NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPAIR = Repair(
    attempt=1,
    failure_class=FailureClass.OUT_OF_MEMORY,
    action="halve the micro-batch",
    changes={"micro": ChangedValue(old=64, new=32)},
    resume_step=30,
    reason="attempt 1 ran out of memory; micro 64 → 32, goes on from step 30",
    at=NOW,
)
FIRST = AttemptSummary(attempt=1, worker_id="worker-1", started_at=NOW, resume_step=0)
SECOND = AttemptSummary(attempt=2, worker_id="worker-2", started_at=NOW, resume_step=30)


def saved(step: int, **fields: Any) -> Checkpoint:
    return Checkpoint(step=step, attempt=1, manifest="a" * 64, size=2**20, saved_at=NOW, **fields)


def test_news_are_told_once_and_not_what_was_there_before() -> None:
    news = story.News()
    assert news.of(a_task(attempts=[FIRST])) == []
    assert news.of(a_task(attempts=[FIRST], repairs=[REPAIR])) == [REPAIR.reason]
    late = a_task(attempts=[FIRST, SECOND], repairs=[REPAIR], attempt=2)
    assert news.of(late) == ["attempt 2 goes on from step 30, on worker-2"]
    assert news.of(late) == []
    third = AttemptSummary(attempt=3, started_at=NOW, resume_step=0)
    told = news.of(a_task(attempts=[FIRST, SECOND, third], repairs=[REPAIR, REPAIR.model_copy(update=LOST)]))
    assert told == ["attempt 2: start again (unknown)", "attempt 3 starts from the beginning"]
    assert story.News().of(late) == []


def test_what_a_person_can_do_is_said_at_the_first_failure_that_nothing_mends() -> None:
    unfit = Failure(
        failure_class=FailureClass.ENVIRONMENT_ERROR, message="No module named 'x'", hint="Install 'x'."
    )
    again = REPAIR.model_copy(update={"reason": "found its worker unfit", "changes": {}})
    news = story.News()
    news.of(a_task(attempts=[FIRST]))
    assert news.of(a_task(failure=unfit, repairs=[again])) == ["found its worker unfit", "Install 'x'."]
    assert news.of(a_task(failure=unfit, repairs=[again, again.model_copy(update={"attempt": 2})])) == []
    memory = unfit.model_copy(update={"hint": "Use a smaller batch."})
    assert news.of(a_task(failure=memory, repairs=[REPAIR])) == [REPAIR.reason]


LOST = {"attempt": 2, "reason": "", "action": "start again", "failure_class": FailureClass.UNKNOWN}


def test_plain_lines_say_phases_news_and_the_last_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines()
    running = {"attempt": 1, "attempts": [FIRST], "progress": Progress(current_step=31)}
    lines.show(a_task(**running, checkpoints=[saved(30)]))
    lines.show(a_task(**running, checkpoints=[saved(30)], phase="checkpointing"))  # beside the training: no news
    lines.show(a_task(**running, phase="checkpointing", stop="pause"))
    lines.show(a_task(**running, status="paused", phase="held", reason="paused; resume goes on from step 31"))
    lines.show(a_task(attempt=2, attempts=[FIRST, SECOND], repairs=[REPAIR]))
    assert [line.removeprefix("task-3f9c1a7be042  ") for line in capsys.readouterr().out.splitlines()] == [
        "running · training  step 31/?  checkpoint 30",
        "running · checkpointing  step 31/?",
        "paused: resume goes on from step 31  step 31/?",
        "attempt 1 ran out of memory; micro 64 → 32, goes on from step 30",
        "attempt 2 goes on from step 30, on worker-2",
        "running · training · attempt 2",
    ]


def test_a_paused_task_ends_a_watch_and_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    task = a_task(status="paused", phase="held", reason="paused; resume goes on from step 30")
    assert outcome.exit_code(task) == 130
    outcome.tell_paused(task)
    said = capsys.readouterr().err
    assert said.startswith("task-3f9c1a7be042 paused: resume goes on from step 30\n")
    assert "`trainwright task resume task-3f9c1a7be042`" in said


def test_a_task_is_told_with_its_attempts_checkpoints_and_repairs() -> None:
    ended = FIRST.model_copy(update={"outcome": "failed", "failure_class": "out_of_memory", "final_step": 35})
    task = a_task(
        attempts=[ended, SECOND],
        checkpoints=[saved(40), saved(30, score=0.25), saved(20, score=0.5)],
        repairs=[REPAIR],
        overrides={"micro": 32},
        reason="",
        created_at=NOW,
    )
    told = dict(story.facts(task))
    assert told["attempts"].splitlines() == [
        "1 failed at step 35 (out_of_memory), on worker-1",
        "2 running, from step 30, on worker-2",
    ]
    assert told["checkpoints"].startswith("3, the newest at step 40 (1.0 MiB, ")
    assert told["checkpoints"].endswith("the best at step 30 (score 0.25)")
    assert (told["repaired"], told["changed"], told["next"]) == (REPAIR.reason, "micro 32", "")
    assert (told["priority"], told["labels"]) == ("", "")
    urgent = TaskConfig(recipe="script", priority=10, labels={"team": "sales", "run": "2"})
    set_apart = dict(story.facts(a_task(config=urgent)))
    assert (set_apart["priority"], set_apart["labels"]) == ("10", "team=sales, run=2")
    many = dict(story.facts(a_task(attempts=[SECOND.model_copy(update={"attempt": n}) for n in range(1, 9)])))
    assert "3 earlier; see `trainwright task attempts task-3f9c1a7be042`" in many["attempts"].splitlines()[0]
    held = a_task(status="paused", phase="held", reason="")
    assert "trainwright task resume" in dict(story.facts(held))["next"]


def test_rows_say_what_is_known() -> None:
    lost = SECOND.model_copy(update={"outcome": "lost", "failure_class": "worker_lost", "message": "silent"})
    placed = AttemptSummary(attempt=3, worker_id="worker-3")
    rows = story.attempt_rows([lost, placed])
    assert [row[-2:] for row in rows] == [("lost", "worker_lost: silent"), ("starting", "")]
    seen = [
        CheckpointView(
            **saved(30, kind=CheckpointKind.STOP, score=float("nan")).model_dump(), best=False, kept=False
        ),
        CheckpointView(**saved(20, score=0.5).model_dump(), best=True, kept=True),
    ]
    rows = story.checkpoint_rows(seen)
    assert [(row[0], row[2], row[3], row[4], row[6]) for row in rows] == [
        (30, "stop", "nan", "1.0 MiB", "deleted"),
        (20, "periodic", "0.5", "1.0 MiB", "best"),
    ]


def test_a_history_tells_what_happened_where_the_reason_stayed() -> None:
    failed = HistoryEntry(version=5, time=NOW, actor="worker", cause="user_error", status="failed", phase="ended")
    failed = failed.model_copy(update={"reason": "KeyError: 'b20'"})
    later = failed.model_copy(update={"version": 6, "actor": "admin", "cause": "archived"})
    assert [row[-1] for row in story.history_rows([failed, later])] == ["KeyError: 'b20'", "archived"]


def test_the_workers_of_an_attempt_on_several_are_told_with_how_each_stands() -> None:
    zero = MemberSummary(rank=0, worker_id="worker-2", state="running")
    one = MemberSummary(rank=1, worker_id="worker-3", state="failed", failure_class="user_error", message="no")
    gang = SECOND.model_copy(update={"members": [zero, one]})
    told = dict(story.facts(a_task(attempts=[FIRST, gang])))
    assert told["members"].splitlines() == [
        "rank 0 running, on worker-2",
        "rank 1 failed (user_error), on worker-3",
    ]
    rows = [(row[0], row[1], row[6], row[7]) for row in story.attempt_rows([FIRST, gang])]
    assert rows[1:] == [
        (2, "worker-2", "running", ""),
        ("  rank 0", "worker-2", "running", ""),
        ("  rank 1", "worker-3", "failed", "user_error: no"),
    ]
    many = [zero.model_copy(update={"rank": rank}) for rank in range(20)]
    told = dict(story.facts(a_task(attempts=[gang.model_copy(update={"members": many})])))
    assert told["members"].splitlines()[-1] == "… 12 more; see `trainwright task attempts task-3f9c1a7be042`"
    assert dict(story.facts(a_task(attempts=[FIRST])))["members"] == ""


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
