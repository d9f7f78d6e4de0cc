"""Parameters that change while a run trains: at a step's beginning, told with the step, and at that step again."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.forecast_kit import Watched, configured, trained
from trainwright.training import checkpoints, layout
from trainwright.training.context import Run
from trainwright.training.hot import Hot, begun

RATE = {"learning_rate": "lr"}


def change(revision: int, step: int | None, **values: tuple[Any, Any]) -> dict[str, Any]:
    """Return changed parameters as an agent hands them over."""
    changes = {name: {"old": old, "new": new} for name, (old, new) in values.items()}
    return {"revision": revision, "step": step, "changes": changes}


def attempt(base: Path, number: int, before: Path | None = None, **spec: Any) -> Run:
    """Start an attempt in a run directory, as a worker's child does."""
    folder = base / f"attempt-{number}"
    folder.mkdir()
    resume = None
    if before is not None:
        newest = checkpoints.whole_folders(before / layout.CHECKPOINTS)[0]
        (folder / layout.RESUME).symlink_to(newest)
        resume = {"step": checkpoints.verify(newest).step, "folder": layout.RESUME}
    layout.write_json(folder / layout.SPEC, {"attempt": number, "resume": resume, **spec})
    hot = Hot(layout.read_json(folder / layout.SPEC) or {})
    return Run(folder, dict(hot.live), in_worker=True, name="test", hot=hot)


def hand_over(run: Run, *changes: dict[str, Any]) -> None:
    """Hand changed parameters to a run and wait until it has read of them."""
    layout.write_json(run.directory / layout.CONTROL, {"revision": 0, "stop": None, "parameters": list(changes)})
    until = time.monotonic() + 20
    while run._hot._newest < changes[-1]["revision"]:
        assert time.monotonic() < until, "the run never read its control file"
        time.sleep(0.005)


def answers(run: Run) -> Any:
    return (layout.read_json(run.directory / layout.PARAMETERS) or {}).get("answers")


def plain_loop(run: Run, total: int, stop_after: int | None = None, at: dict[int, Any] | None = None) -> Any:
    """Train a line by SGD with momentum and a schedule; return the weights and the rates of every step."""
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 1)
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "lr": run.parameters["lr"] * 0.1},
    ]
    optimizer = torch.optim.SGD(groups, lr=run.parameters["lr"], momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    rates = {}
    for step in run.steps(total, checkpoint_every=5, model=model, optimizer=optimizer, schedule=schedule):
        rates[step] = [group["lr"] for group in optimizer.param_groups]
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        schedule.step()
        run.log(step, {"lr": rates[step][0]})
        if at and step in at:
            hand_over(run, *at[step])
        if step == stop_after:
            break
    run.finish()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, rates


def test_a_changed_rate_holds_in_every_optimiser_of_a_plain_loop_and_a_killed_run_takes_it_over_at_the_same_step(
    tmp_path: Path,
) -> None:
    spec: dict[str, Any] = {"parameters": {"lr": 0.1}, "repairable": RATE}
    new = change(1, None, lr=(0.1, 0.03))
    whole = attempt(tmp_path, 1, **spec)
    weights, rates = plain_loop(whole, 20, at={8: [new]})
    assert answers(whole) == [{"revision": 1, "step": 9}]
    assert rates[9][0] == pytest.approx(rates[8][0] * 0.3, rel=0.05)
    assert rates[9][1] == pytest.approx(rates[9][0] / 10)

    killed = attempt(tmp_path, 2, **spec)
    plain_loop(killed, 20, stop_after=9, at={8: [new]})
    known = {"parameters": {"lr": 0.03}, "repairable": RATE, "changes": [{**new, "step": 9}]}
    before = attempt(tmp_path, 3, killed.directory, **known)
    assert before.parameters == {"lr": 0.1}, "it goes on from step 5: nothing was changed then"
    again, same_rates = plain_loop(before, 20, stop_after=13)
    assert before.parameters == {"lr": 0.03}
    assert answers(before) is None, "what is known is not told again"
    after = attempt(tmp_path, 4, before.directory, **known)
    assert after.parameters == {"lr": 0.03}, "it goes on from step 10: the change held there"
    assert after.given == {"lr": 0.1}
    again, later_rates = plain_loop(after, 20)
    assert {**same_rates, **later_rates} == {step: of for step, of in rates.items() if step > 5}
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_the_forecaster_changed_killed_and_resumed_leaves_the_same_bytes(tmp_path: Path) -> None:
    config = configured(max_steps=6, learning_rate=0.01)
    new = change(1, None, learning_rate=(0.01, 0.002))

    class Changed(Watched):
        def log(self, step: int, metrics: Any, total_steps: int | None = None) -> None:
            if step == 3 and not self._hot._newest:
                hand_over(self, new)
            super().log(step, metrics, total_steps)

    whole, first = Changed(tmp_path / "whole"), Changed(tmp_path / "first", stop_at=4)
    summary = trained(whole, config)
    assert answers(whole) == [{"revision": 1, "step": 4}]
    (entry,) = [one for one in summary["journal"] if one["step"]]
    assert entry == {
        "step": 4,
        "name": "learning_rate",
        "value": 0.002,
        "why": "changed while it trained",
        "was": 0.01,
    }
    trained(first, config)
    second = Watched(tmp_path / "second", after=first)
    second._hot.hear([])
    resumed = trained(second, config)
    assert {path.name: path.read_bytes() for path in second.output.iterdir()} == {
        path.name: path.read_bytes() for path in whole.output.iterdir()
    }
    assert {**resumed, "seconds": 0} == {**summary, "seconds": 0}


def test_a_plain_loop_takes_changes_over_where_it_asks_whether_to_stop(tmp_path: Path) -> None:
    run = attempt(tmp_path, 1, parameters={"lr": 0.1, "name": "a"})
    run.log(1, {"loss": 1.0})
    hand_over(run, change(1, None, lr=(0.1, 0.2)), change(2, None, lr=(0.2, 0.3), name=("a", "b")))
    assert run.parameters == {"lr": 0.1, "name": "a"}, "not in the middle of a step"
    assert not run.should_stop()
    assert run.parameters == {"lr": 0.3, "name": "b"}
    assert answers(run) == [{"revision": 1, "step": 2}, {"revision": 2, "step": 2}]
    run.finish()


def test_what_the_run_refuses_leaves_it_untouched_and_says_why(tmp_path: Path) -> None:
    class Part:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

        def parameters_changed(self, step: int, values: dict[str, Any]) -> None:
            if values.get("depth") == 3:
                raise ValueError("depth cannot grow")

    run = attempt(tmp_path, 1, parameters={"lr": 0.1, "depth": 2})
    run.accepts(lambda parameters: 1 / parameters["lr"])
    for step in run.steps(3, part=Part()):
        run.log(step, {"loss": 1.0})
        if step == 1:
            hand_over(
                run, change(1, None, lr=(0.1, 0)), change(2, None, depth=(2, 3)), change(3, None, lr=(0.1, 1))
            )
    assert run.parameters == {"lr": 1, "depth": 2}
    assert answers(run) == [
        {"revision": 1, "error": "division by zero"},
        {"revision": 2, "error": "depth cannot grow"},
        {"revision": 3, "step": 2},
    ]
    run.finish()


def test_parts_that_were_told_of_a_change_are_told_of_its_end_when_another_one_refuses(tmp_path: Path) -> None:
    class Part:
        def __init__(self, most: int) -> None:
            self.most, self.depth = most, 2

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

        def parameters_changed(self, step: int, values: dict[str, Any]) -> None:
            if values["depth"] > self.most:
                raise ValueError(f"at most {self.most}")
            self.depth = values["depth"]

    run = attempt(tmp_path, 1, parameters={"depth": 2})
    hand_over(run, change(1, None, depth=(2, 5)))
    first, second = Part(9), Part(4)
    for _ in run.steps(1, first=first, second=second):
        assert (first.depth, second.depth) == (2, 2)
    assert answers(run) == [{"revision": 1, "error": "at most 4"}]
    run.finish()


def test_a_check_that_fails_in_a_way_of_its_own_is_told_by_its_words(tmp_path: Path) -> None:
    class Refused(Exception):
        def __init__(self, found: list[dict[str, str]]) -> None:
            super().__init__("the depth is too large")
            self.found = found

        def errors(self) -> list[dict[str, str]]:
            return self.found  # not what pydantic's errors have

    def check(parameters: dict[str, Any]) -> None:
        if parameters["depth"] > 2:
            raise Refused([{"path": "depth"}])

    run = attempt(tmp_path, 1, parameters={"depth": 2})
    run.accepts(check)
    hand_over(run, change(1, None, depth=(2, 3)))
    assert not run.should_stop()
    assert answers(run) == [{"revision": 1, "error": "the depth is too large"}]
    run.finish()


def test_an_answer_that_cannot_be_written_is_said_and_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = attempt(tmp_path, 1, parameters={"lr": 0.1})
    (run.directory / layout.PARAMETERS).mkdir()
    hand_over(run, change(1, None, lr=(0.1, 0.2)))
    run.should_stop()
    assert run.parameters == {"lr": 0.2}
    assert (
        "changed parameters hold, but that cannot be written down yet: Is a directory" in capsys.readouterr().err
    )
    (run.directory / layout.PARAMETERS).rmdir()
    run.should_stop()
    assert answers(run) == [{"revision": 1, "step": 1}]
    run.finish()


def test_a_newer_change_wins_over_an_older_one_that_is_to_come_again(tmp_path: Path) -> None:
    changes = [change(1, 5, lr=(0.1, 0.2)), change(2, None, lr=(0.2, 0.3))]
    run = attempt(tmp_path, 1, parameters={"lr": 0.3}, changes=changes)
    seen = [run.parameters["lr"] for _ in run.steps(6)]
    assert seen == [0.3] * 6
    assert answers(run) == [{"revision": 2, "step": 1}]
    run.finish()


def test_a_refused_change_does_not_keep_an_older_one_from_coming_again(tmp_path: Path) -> None:
    changes = [change(1, 3, lr=(0.1, 0.2)), change(2, None, lr=(0.2, 0.0))]
    run = attempt(tmp_path, 1, parameters={"lr": 0.0}, changes=changes)
    run.accepts(lambda parameters: 1 / parameters["lr"])
    assert [run.parameters["lr"] for _ in run.steps(4)] == [0.1, 0.1, 0.2, 0.2]
    assert answers(run) == [{"revision": 2, "error": "float division by zero"}]
    run.finish()


def test_a_value_that_a_repair_changed_since_is_not_put_back() -> None:
    given_then, live, waiting = begun({"lr": 0.05, "b": 8}, [change(1, 40, lr=(0.2, 0.1), b=(4, 8))], 20)
    assert given_then == {"lr": 0.05, "b": 4}
    assert live == {"lr": 0.05, "b": 4}
    assert [(one.revision, one.step, one.values) for one in waiting] == [(1, 40, {"b": 8})]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 5)), max_size=12),
    st.integers(0, 60),
)
def test_a_run_that_goes_on_from_anywhere_has_the_values_of_the_one_that_went_on(
    asked: list[tuple[str, int, int]], resume_step: int
) -> None:
    """The law: whatever was changed at whichever steps, from the resumed step on nothing differs."""
    start = dict.fromkeys("abc", -1)
    values, step, changes = dict(start), 1, []
    history = {}
    for revision, (name, value, pause) in enumerate(asked, 1):
        for passed in range(step, step + pause):
            history[passed] = dict(values)
        step += pause
        changes.append(change(revision, step, **{name: (values[name], value)}))
        values[name] = value
    for passed in range(step, 80):
        history[passed] = dict(values)

    given_then, live, waiting = begun(values, changes, resume_step)
    assert given_then == start
    now = dict(live)
    for passed in range(resume_step + 1, 80):
        for one in waiting:
            if one.step is not None and one.step <= passed:
                now.update(one.values)
        waiting = [one for one in waiting if one.step is None or one.step > passed]
        assert now == history[passed], passed
