"""Crash points: off they are nothing; on they act at the n-th passing, once, in this process or over many."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainwright import crash

PASSES_FIVE = """
from trainwright import crash
for number in range(5):
    print(number, flush=True)
    crash.point("relay.read")
    crash.point("relay.sending")
"""
SHIM = Path(__file__).parents[2] / "services" / "trainer_worker" / "shim.py"


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script with crash points as an environment says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CRASH_")}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=300, check=False)


def test_off_nothing_happens_and_on_the_process_dies_at_the_nth_passing_of_its_point() -> None:
    assert run(PASSES_FIVE).returncode == 0
    done = run(PASSES_FIVE, CRASH_POINTS="relay.sending:3:kill")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["0", "1", "2"])
    assert "crash points are on" in done.stderr, "nobody has them on unawares"


def test_with_notes_each_word_acts_once_over_all_processes(tmp_path: Path) -> None:
    words = {"CRASH_POINTS": "relay.read:2:kill relay.read:4:kill", "CRASH_NOTES": str(tmp_path)}
    deaths = [run(PASSES_FIVE, **words) for _ in range(3)]
    assert [len(done.stdout.split()) for done in deaths] == [2, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == words["CRASH_POINTS"].split()


def test_a_full_disk_and_a_pause() -> None:
    plan = crash.Plan("checkpoint.files:1:full relay.read:1:sleep=0", None)
    with pytest.raises(OSError, match="No space left") as caught:
        plan.passed("checkpoint.files")
    assert caught.value.errno == errno.ENOSPC
    plan.passed("checkpoint.files")
    plan.passed("relay.read")


@pytest.mark.parametrize("word", ["relay.raed:1:kill", "relay.read:1:explode", "relay.read:1:full"])
def test_a_word_that_would_do_nothing_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"is not <point>|writes nothing"):
        crash.Plan(word, None)


def test_who_switches_them_on_switches_them_on_in_a_shim_that_knows_nothing_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "work").mkdir()
    (tmp_path / "spec.json").write_text('{"argv": ["true"], "agent_lock": "lock", "orphan_seconds": 20}')
    env = {"PATH": os.environ["PATH"], crash.CODE: str(Path(crash.__file__)), crash.NOTES: str(tmp_path / "notes")}
    (tmp_path / "notes").mkdir()
    for words, code in (("shim.child_ended:1:kill", -signal.SIGKILL), ("shim.child_ended:1:kill", 0)):
        shim = [sys.executable, "-I", "-S", str(SHIM), str(tmp_path)]
        done = subprocess.run(
            shim, env=env | {crash.VARIABLE: words}, capture_output=True, timeout=90, check=False
        )
        assert done.returncode == code, done.stderr
        assert (tmp_path / "exit.json").exists() == (code == 0)
