"""Failures are named from evidence that real Python processes left."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from trainwright.contracts.attempt import FailureClass
from trainwright.training.classify import Ending, classify, last_traceback


def stderr_of(script: str, folder: Path) -> Ending:
    path = folder / "train.py"
    path.write_text(textwrap.dedent(script))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    return Ending(exit_code=done.returncode, stderr=done.stderr)


@pytest.mark.parametrize(
    ("script", "kind", "exception", "line"),
    [
        ("x = {}\nx['rate']\n", FailureClass.USER_ERROR, "KeyError", 2),
        ("def f(:\n  pass\n", FailureClass.USER_ERROR, "SyntaxError", 1),
        ("if True:\nprint(1)\n", FailureClass.USER_ERROR, "IndentationError", 2),
        ("import not_installed_anywhere\n", FailureClass.ENVIRONMENT_ERROR, "ModuleNotFoundError", 1),
        ("\nopen('sales.csv')\n", FailureClass.DATA_ERROR, "FileNotFoundError", 2),
        ("raise MemoryError\n", FailureClass.OUT_OF_MEMORY, "MemoryError", 1),
        ("b'\\xff'.decode()\n", FailureClass.DATA_ERROR, "UnicodeDecodeError", 1),
        (
            "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory.')\n",
            FailureClass.OUT_OF_MEMORY,
            "OutOfMemoryError",
            2,
        ),
        (
            'raise RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory: 9")\n',
            FailureClass.OUT_OF_MEMORY,
            "RuntimeError",
            1,
        ),
        ("raise OSError(28, 'No space left on device')\n", FailureClass.ENVIRONMENT_ERROR, "OSError", 1),
        (
            "try:\n    1 / 0\nexcept Exception as error:\n    raise ValueError('bad rate') from error\n",
            FailureClass.USER_ERROR,
            "ValueError",
            4,
        ),
    ],
)
def test_an_exception_is_classified_with_its_place(
    tmp_path: Path, script: str, kind: FailureClass, exception: str, line: int
) -> None:
    failure = classify(stderr_of(script, tmp_path))
    assert (failure.failure_class, failure.exception) == (kind, exception)
    assert (failure.file, failure.line) == (str(tmp_path / "train.py"), line)
    assert failure.traceback is not None
    assert failure.hint


def test_the_line_shown_is_the_users_own_and_not_a_packages(tmp_path: Path) -> None:
    failure = classify(stderr_of("import numpy\n\nnumpy.ones(3).reshape(2, 2, 2)\n", tmp_path))
    assert failure.line == 3
    trace = last_traceback(
        'Traceback (most recent call last):\n  File "/home/me/train.py", line 7, in <module>\n    fit()\n'
        '  File "/usr/lib/site-packages/lib/core.py", line 90, in fit\n    raise ShapeError("2 x 3")\n'
        "lib.errors.ShapeError: 2 x 3\nsecond line of the message\n"
    )
    assert trace is not None
    assert (trace.file, trace.line, trace.exception) == ("/home/me/train.py", 7, "ShapeError")
    assert trace.message == "2 x 3\nsecond line of the message"


def test_the_last_of_several_tracebacks_counts(tmp_path: Path) -> None:
    script = """
        import traceback
        try:
            open("/nowhere")
        except OSError:
            traceback.print_exc()
        raise LookupError("the real one")
        """
    failure = classify(stderr_of(script, tmp_path))
    assert failure.message == "LookupError: the real one"


def test_an_exit_code_without_a_traceback_shows_the_last_words() -> None:
    failure = classify(Ending(exit_code=3, stderr="warming up\nno GPU here, giving up\n\n"))
    assert failure.failure_class is FailureClass.USER_ERROR
    assert failure.message == "the process ended with exit code 3: no GPU here, giving up"
    assert failure.exit_code == 3


def test_signals_have_names_and_the_kernels_own_kill_is_want_of_memory() -> None:
    crashed = classify(Ending(signal="SIGSEGV"))
    assert crashed.failure_class is FailureClass.UNKNOWN
    assert "SIGSEGV" in crashed.message
    assert crashed.hint is not None
    assert classify(Ending(signal="SIGKILL")).failure_class is FailureClass.UNKNOWN
    assert classify(Ending(signal="SIGKILL", oom_kills=1)).failure_class is FailureClass.OUT_OF_MEMORY


def test_a_program_that_cannot_be_started_is_the_environments_fault() -> None:
    failure = classify(Ending(exit_code=127, reason="not_started", error="cannot start python9: not found"))
    assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
    assert failure.message == "cannot start python9: not found"


@pytest.mark.parametrize("text", ["", "\n", "Traceback (most recent call last):", '  File "x", line 1\n', ": :\n"])
def test_broken_evidence_is_no_reason_to_fail(text: str) -> None:
    assert classify(Ending(exit_code=1, stderr=text)).failure_class is FailureClass.USER_ERROR


def test_an_exception_group_is_told_by_its_last_part(tmp_path: Path) -> None:
    script = """
    def part():
        raise KeyError('rate')
    try:
        part()
    except KeyError as error:
        raise ExceptionGroup('two of three failed', [ValueError('no trace'), error])
    """
    failure = classify(stderr_of(script, tmp_path))
    assert (failure.exception, failure.message) == ("KeyError", "KeyError: 'rate'")
    assert (failure.file, failure.line) == (str(tmp_path / "train.py"), 3)
    bare = classify(stderr_of("raise ExceptionGroup('all', [ValueError('a'), TypeError('b')])\n", tmp_path))
    assert bare.message == "ExceptionGroup: all (2 sub-exceptions)\nValueError: a\nTypeError: b"


def test_a_message_cannot_paint_the_readers_terminal(tmp_path: Path) -> None:
    failure = classify(stderr_of(r"raise ValueError('a\x1b[31mred\x1b]0;title\x07 b\0c\x1b[2J')", tmp_path))
    assert failure.message == "ValueError: ared b\ufffdc"
    assert classify(Ending(exit_code=3, stderr="\x1b[31mgone\x1b[0m\n")).message.endswith("exit code 3: gone")


def test_an_exception_without_a_message_ends_without_a_colon(tmp_path: Path) -> None:
    assert classify(stderr_of("raise MemoryError\n", tmp_path)).message == "MemoryError"


def test_a_silent_exit_does_not_point_to_logs_that_are_not_there() -> None:
    failure = classify(Ending(exit_code=7))
    assert failure.message == "the process ended with exit code 7"
    assert "logs" not in str(failure.hint)


def test_a_file_of_the_task_is_named_as_it_was_submitted(tmp_path: Path) -> None:
    ending = stderr_of("\nraise ValueError('x')\n", tmp_path)
    assert classify(replace(ending, folder=str(tmp_path))).file == "train.py"
    assert classify(replace(ending, folder=str(tmp_path / "other"))).file == str(tmp_path / "train.py")


def test_a_recipe_that_refuses_its_data_is_told_without_a_place_in_the_recipe(tmp_path: Path) -> None:
    script = """
    from pathlib import Path
    from trainwright.recipes.forecast.config import ForecastConfig, ForecastData
    from trainwright.recipes.forecast.data import load_panel
    load_panel(ForecastData(path="sales.csv", time="d", target="y"), ForecastConfig())
    """
    ending = stderr_of(script, tmp_path)
    recipe_only = "\n".join(line for line in ending.stderr.splitlines() if "train.py" not in line)
    failure = classify(replace(ending, stderr=recipe_only))
    assert failure.failure_class is FailureClass.DATA_ERROR
    assert failure.message == "there is no data file sales.csv"
    assert (failure.file, failure.line) == (None, None)
