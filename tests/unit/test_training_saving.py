"""Saving and resuming as a script sees them: in a process of its own, in a worker's run directory or alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.script_kit import records, run, start, wait_for
from trainwright.training import checkpoints, layout


def saved(folder: Path) -> list[checkpoints.Stored]:
    """Return the whole checkpoints of a run, verified, the oldest first."""
    found = checkpoints.whole_folders(folder / layout.CHECKPOINTS)
    return [checkpoints.Stored(one) for one in reversed(found)]


def kinds(folder: Path) -> list[tuple[int, str]]:
    return [(one.manifest.step, str(one.manifest.kind)) for one in saved(folder)]


def attempt(base: Path, number: int, before: Path | None = None, **spec: Any) -> Path:
    """Make a run directory as the agent does, that goes on from the newest checkpoint of the one before."""
    folder = base / f"attempt-{number}"
    folder.mkdir()
    resume = None
    if before is not None:
        newest = checkpoints.whole_folders(before / layout.CHECKPOINTS)[0]
        (folder / layout.RESUME).symlink_to(newest)
        resume = {"step": checkpoints.verify(newest).step, "folder": layout.RESUME}
    layout.write_json(folder / layout.SPEC, {"attempt": number, "resume": resume, **spec})
    return folder


COUNT = """
    import os, random, sys, trainwright
    run = trainwright.init()
    random.seed(1)
    state = {"total": 0.0, "drawn": []}
    for step in run.steps(20, checkpoint_every=3, state=state):
        state["drawn"].append(random.random())
        state["total"] += state["drawn"][-1]
        run.log(step, {"total": state["total"]})
        if step == int(os.environ.get("KILL_AT", 0)):
            run._saver.wait()
            os.kill(os.getpid(), 9)
    print(state)
    assert not {"numpy", "torch"} & set(sys.modules), "nothing is imported that the script did not import"
    """


def test_a_run_killed_twice_ends_with_the_same_state_and_the_same_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attempt(tmp_path, 1)
    expected = run(COUNT, whole)
    assert (expected.returncode, expected.stderr) == (0, "")
    first = attempt(tmp_path, 2)
    monkeypatch.setenv("KILL_AT", "8")
    assert run(COUNT, first).returncode == -signal.SIGKILL
    assert kinds(first) == [(3, "periodic"), (6, "periodic")]
    second = attempt(tmp_path, 3, first)
    monkeypatch.setenv("KILL_AT", "13")
    assert run(COUNT, second).returncode == -signal.SIGKILL
    third = attempt(tmp_path, 4, second)
    monkeypatch.delenv("KILL_AT")
    done = run(COUNT, third)
    assert (done.returncode, done.stdout) == (0, expected.stdout)
    assert kinds(third) == [(15, "periodic"), (18, "periodic"), (20, "final")]
    assert saved(third)[-1].manifest.attempt == 4
    assert [record.step for record in records(third)] == list(range(13, 21))
    histories = [(saved(folder)[-1].folder / "history.json").read_text() for folder in (whole, third)]
    assert histories[0] == histories[1]
    assert [step for step, _ in json.loads(histories[0])["metrics"]["total"]] == list(range(1, 21))


def test_a_run_that_is_asked_to_stop_saves_and_leaves_the_loop(tmp_path: Path) -> None:
    script = """
        import trainwright
        run = trainwright.init()
        state = {"step": 0}
        for step in run.steps(10**9, state=state):
            state["step"] = step
            if step == 1:
                print("training", flush=True)
                while not run.should_stop():
                    pass
                print(run.stopping)
        print("left after", step)
        """
    layout.write_json(tmp_path / layout.SPEC, {"attempt": 2})
    with start(script, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        wait_for(tmp_path / layout.HABITS)
        layout.write_json(tmp_path / layout.CONTROL, {"revision": 1, "stop": {"kind": "pause"}})
        out, error = process.communicate(timeout=120)
    assert (process.returncode, out, error) == (0, "True\nleft after 1\n", "")
    assert kinds(tmp_path) == [(1, "stop")]
    assert saved(tmp_path)[0]["state"] == {"step": 1}
    assert layout.read_json(tmp_path / layout.HABITS) == {"asks_stop": True, "saves": True}
    assert (tmp_path / layout.STOPPING).exists()


def test_saving_by_hand(tmp_path: Path) -> None:
    done = run(
        """
        import trainwright
        run = trainwright.init()
        assert run.resumed is None and run.resume(state={}) == 0 and not run.stopping
        for step in range(1, 7):
            if run.checkpoint_due(every_steps=2, step=step):
                about = {"score": step % 4, "greater_is_better": True}
                run.checkpoint(step, **about, state={"step": step}, note=("x", step))
        assert not run.checkpoint_due(every_seconds=1000, step=6)
        assert not run.checkpoint_due()
        run._saver.wait()
        assert run.checkpoint_due(every_seconds=0)
        run.checkpoint(7, score=float("nan"), wait=True, state=None)
        run._stop_seen = True
        run.checkpoint(7, state={"evaluated": True})
        run.checkpoint(8, final=True, state=None)
        run.checkpoint(9, state={"mine": None})
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert kinds(tmp_path) == [(6, "periodic"), (7, "stop"), (8, "final"), (9, "stop")]
    assert saved(tmp_path)[1]["state"] == {"evaluated": True}, "what an evaluation changed after the first save"
    best = saved(tmp_path)[0]
    assert (best.manifest.score, best.manifest.greater_is_better) == (2.0, True)
    assert dict(best) == {"state": {"step": 6}, "note": ("x", 6)}


BAD = [
    ("checkpoint('3')", "TypeError: step must be an integer, got '3' (str)"),
    ("checkpoint(3, score='good')", "TypeError: metric 'score' must be a number, got 'good' (str)"),
    ("checkpoint(3, **{'../x': 1})", "ValueError: a part's name must be a word such as model, got '../x'"),
    (
        "checkpoint(3, state={'a': [open]})",
        "TypeError: state.a.0 is a builtin_function_or_method; a checkpoint",
    ),
    ("checkpoint_due(every_steps=3)", "TypeError: checkpoint_due(every_steps=…) needs step=…"),
    ("checkpoint_due(every_steps=0, step=3)", "ValueError: every_steps must be at least 1, got 0"),
    ("resume(epoch=3)", "TypeError: epoch is a int, which cannot be filled in place"),
    ("resume(optimizer={})", "has no optimizer; it has state"),
    ("steps('many')", "TypeError: total must be an integer, got 'many' (str)"),
    ("steps(9, epoch=3)", "TypeError: epoch is a int, which cannot be filled in place"),
    ("finish(); run.checkpoint(4)", "RuntimeError: run.checkpoint() was called after run.finish()"),
]


def test_a_bad_call_says_what_is_wrong(tmp_path: Path) -> None:
    before = attempt(tmp_path, 1)
    run("import trainwright; trainwright.init().checkpoint(2, state={})", before)
    done = run(
        f"""
        import trainwright
        run = trainwright.init()
        for call in {[call for call, _ in BAD]!r}:
            try:
                exec("run." + call)
            except Exception as error:
                print(f"{{type(error).__name__}}: {{error}}")
            else:
                print("nothing")
        """,
        attempt(tmp_path, 2, before),
    )
    for (call, error), said in zip(BAD, done.stdout.splitlines(), strict=True):
        assert error in said, call


def test_what_the_body_raises_passes_through_and_saves_nothing(tmp_path: Path) -> None:
    done = run(
        """
        import trainwright
        run = trainwright.init()
        for step in run.steps(10, checkpoint_every=1, state={}):
            assert step < 3, "a bug"
        """,
        tmp_path,
    )
    assert "AssertionError: a bug" in done.stderr
    assert kinds(tmp_path) == [(1, "periodic"), (2, "periodic")]


def test_a_resumed_run_may_look_at_every_part(tmp_path: Path) -> None:
    before = attempt(tmp_path, 1)
    run("import trainwright; trainwright.init().checkpoint(5, epoch=3, names=('a', b'b'))", before)
    done = run(
        """
        import trainwright
        run = trainwright.init()
        print(run.resumed.step, run.resumed.state["epoch"], run.resumed.state["names"], sorted(run.resumed.state))
        print(run.resume())
        """,
        attempt(tmp_path, 2, before),
    )
    assert (done.stdout, done.stderr) == ("5 3 ('a', b'b') ['epoch', 'names']\n5\n", "")


def test_a_damaged_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    before = attempt(tmp_path, 1)
    run("import trainwright; trainwright.init().checkpoint(5, first=[1], second=[2])", before)
    state = saved(before)[0].folder / "state.json"
    again = attempt(tmp_path, 2, before)
    state.write_text(state.read_text().replace("[2]", "[3]"))
    done = run(
        """
        import trainwright
        run, first = trainwright.init(), []
        try:
            run.resume(first=first)
        finally:
            print(first)
        """,
        again,
    )
    assert "state.json is damaged" in done.stderr
    assert done.stdout == "[]\n"


def test_a_forked_process_does_not_save(tmp_path: Path) -> None:
    done = run(
        """
        import os, trainwright, warnings
        warnings.simplefilter("ignore")
        run = trainwright.init()
        run.checkpoint(1, state={})
        if os.fork() == 0:
            try:
                run.checkpoint(2, state={})
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        """,
        tmp_path,
    )
    assert "run.checkpoint() was called in a forked process" in done.stdout
    assert kinds(tmp_path) == [(1, "periodic")]


def test_a_save_that_comes_during_another_waits_for_it_and_both_are_right(tmp_path: Path) -> None:
    done = run(
        """
        import numpy as np, trainwright
        run = trainwright.init()
        weights = np.zeros(3_000_000)
        for step in (1, 2, 3):
            weights[:] = step
            run.checkpoint(step, weights=weights)
            weights[:] = -1
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for one in saved(tmp_path):
        assert (one["weights"] == one.manifest.step).all()
    assert len(saved(tmp_path)) == 3


@pytest.mark.unmeasured
def test_a_run_that_is_ended_while_it_saves_finishes_the_save(tmp_path: Path) -> None:
    done = run(
        """
        import numpy as np, os, signal, trainwright
        run = trainwright.init()
        run.checkpoint(1, weights=np.zeros(3_000_000))
        assert not list(run.directory.glob("checkpoints/step-*"))
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert kinds(tmp_path) == [(1, "periodic")]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / layout.CHECKPOINTS / ".step-0000000001.tmp"
    left.mkdir(parents=True)
    (left / "state.json").write_text("{")
    run("import trainwright; trainwright.init().checkpoint(2)", tmp_path)
    assert [path.name for path in (tmp_path / layout.CHECKPOINTS).iterdir()] == ["step-0000000002"]


@pytest.mark.unmeasured
def test_a_disk_that_refuses_is_a_warning_and_the_training_goes_on(tmp_path: Path) -> None:
    done = run(
        """
        import resource, trainwright
        run = trainwright.init()
        big = {"text": "x" * 300_000}
        run.checkpoint(1, wait=True, state=big)
        for step, limit in ((2, 100_000), (3, resource.RLIM_INFINITY), (4, 100_000)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            run.checkpoint(step, wait=True, state=big)
        run.checkpoint(5, final=True, state=big)
        run._stop_seen = True
        run.checkpoint(6, state=big)
        run.log(6, {"loss": 1.0})
        """,
        tmp_path,
    )
    assert done.returncode == 0
    assert done.stderr == (
        "trainwright: the checkpoint of step 2 was not saved (File too large); the training goes on\n"
        "trainwright: the checkpoint of step 4 was not saved (File too large); the training goes on\n"
        "trainwright: THE FINAL CHECKPOINT OF STEP 5 WAS NOT SAVED (File too large); "
        "the run can go on only from an older one\n"
        "trainwright: THE STOP CHECKPOINT OF STEP 6 WAS NOT SAVED (File too large); "
        "the run can go on only from an older one\n"
    )
    assert kinds(tmp_path) == [(1, "periodic"), (3, "periodic")]
    assert not [path for path in (tmp_path / layout.CHECKPOINTS).iterdir() if layout.is_temporary(path)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_without_memory_for_a_copy_a_checkpoint_is_left_out_and_the_training_goes_on(tmp_path: Path) -> None:
    done = run(
        """
        import pathlib, resource, numpy, trainwright
        run = trainwright.init()
        big = numpy.zeros(500_000_000, dtype=numpy.uint8)
        now = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 200_000_000, resource.RLIM_INFINITY))
        run.checkpoint(1, weights={"all": big})
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        run.checkpoint(2, weights={"all": big[:10]})
        """,
        tmp_path,
    )
    assert done.returncode == 0
    assert done.stderr.startswith("trainwright: the checkpoint of step 1 was not saved: Unable to allocate")
    assert kinds(tmp_path) == [(2, "periodic")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB for a run's checkpoints."""
    folder = tmp_path / layout.CHECKPOINTS
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_warning_and_what_was_whole_stays(small_disk: Path) -> None:
    done = run(
        """
        import trainwright
        run = trainwright.init()
        for step in range(1, 7):
            run.checkpoint(step, wait=True, state={"text": "x" * 600_000})
        (run.directory / "checkpoints" / "step-0000000001" / "state.json").unlink()
        """,
        small_disk.parent,
    )
    assert done.returncode == 0
    reason = "was not saved (No space left on device); the training goes on"
    assert done.stderr.splitlines() == [
        f"trainwright: the checkpoint of step {step} {reason}" for step in (4, 5, 6)
    ]
    assert sorted(path.name for path in small_disk.iterdir()) == [f"step-{step:010d}" for step in (1, 2, 3)]
    assert [
        one["state"]["text"] for one in map(checkpoints.Stored, checkpoints.whole_folders(small_disk)[:2])
    ] == ["x" * 600_000] * 2
