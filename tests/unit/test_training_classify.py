"""Failures are named from evidence that real Python processes left."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from trainwright.contracts.failure import Failure, FailureClass
from trainwright.training.classify import Ending, classify
from trainwright.training.signs import SIGNS, Sign
from trainwright.training.traces import last_traceback


def stderr_of(script: str, folder: Path) -> Ending:
    path = folder / "train.py"
    path.write_text(textwrap.dedent(script))
    command = [sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
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
        'Traceback (most recent call last):\n  File "/srv/mine/train.py", line 7, in <module>\n    fit()\n'
        '  File "/usr/lib/site-packages/lib/core.py", line 90, in fit\n    raise ShapeError("2 x 3")\n'
        "lib.errors.ShapeError: 2 x 3\nsecond line of the message\n"
    )
    assert trace is not None
    assert (trace.file, trace.line, trace.exception) == ("/srv/mine/train.py", 7, "ShapeError")
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


def test_a_missing_package_is_named_as_it_is_installed_and_for_which_python() -> None:
    for module, package in (
        ("sklearn", "scikit-learn"),
        ("sklearn.svm", "scikit-learn"),
        ("torch_geo", "torch_geo"),
    ):
        said = f"Traceback (most recent call last):\nModuleNotFoundError: No module named '{module}'\n"
        hint = str(classify(Ending(exit_code=1, stderr=said)).hint)
        assert hint.startswith(f"Install {package!r} where the worker runs, for {sys.executable};")


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


HEADER = "Traceback (most recent call last):\n"
OWN = '  File "/run/code/train.py", line 7, in <module>\n    main()\n'
TORCH = '  File "/usr/lib/python3.11/site-packages/torch/x.py", line 90, in f\n    raise error\n'


def told(stderr: str, exit_code: int | None = 1, signal: str | None = None, oom_kills: int = 0) -> Failure:
    return classify(
        Ending(exit_code=exit_code, signal=signal, stderr=stderr, folder="/run/code", oom_kills=oom_kills)
    )


def test_what_failed_in_a_data_loaders_worker_is_named_with_the_line_there() -> None:
    nested = '  File "/run/code/rows.py", line 12, in __getitem__\n    return open(self.paths[n])\n'
    failure = told(
        f"{HEADER}{OWN}{TORCH}FileNotFoundError: Caught FileNotFoundError in DataLoader worker process 0.\n"
        f"Original {HEADER}{TORCH}{nested}FileNotFoundError: [Errno 2] No such file or directory: 'a.png'\n\n"
    )
    assert (failure.failure_class, failure.file, failure.line) == (FailureClass.DATA_ERROR, "rows.py", 12)
    assert failure.message == "FileNotFoundError: [Errno 2] No such file or directory: 'a.png'"
    assert failure.traceback is not None
    assert failure.traceback.startswith(HEADER)


def test_a_spawned_process_that_failed_inside_libraries_only_is_named_with_the_line_that_started_it() -> None:
    failure = told(
        f"{HEADER}{OWN}{TORCH}torch.multiprocessing.spawn.ProcessRaisedException: \n\n"
        f"-- Process 1 terminated with the following error:\n{HEADER}{TORCH}RuntimeError: shapes do not fit\n"
    )
    assert (failure.exception, failure.file, failure.line) == ("RuntimeError", "train.py", 7)


def test_of_several_ranks_the_one_that_failed_is_told_and_not_those_that_lost_it() -> None:
    first = [f"[rank1]: {line}" for line in f"{HEADER}{OWN}ValueError: bad shard".splitlines()]
    second = [
        f"[rank0]: {line}" for line in f"{HEADER}{TORCH}RuntimeError: Connection closed by peer".splitlines()
    ]
    mixed = "\n".join(line for pair in zip(first, second, strict=True) for line in pair)
    launcher = f"{HEADER}{TORCH}torch.distributed.elastic.errors.ChildFailedError: \n====\ntrain.py FAILED\n"
    failure = told(f"W1101 nothing\n{mixed}\n{launcher}")
    assert (failure.message, failure.line) == ("ValueError: bad shard", 7)


def test_a_program_that_only_says_that_another_one_failed_is_not_the_reason() -> None:
    inner = f'{HEADER}  File "/run/code/prepare.py", line 3, in <module>\n    rows[3]\nIndexError: out of range\n'
    outer = f"{HEADER}{OWN}subprocess.CalledProcessError: Command 'x' returned non-zero exit status 1.\n"
    assert (told(inner + outer).file, told(inner + outer).line) == ("prepare.py", 3)
    assert told(outer).exception == "CalledProcessError"


def test_tracebacks_in_boxes_are_read_too() -> None:
    failure = told(
        "╭──── Traceback (most recent call last) ────╮\n"
        "│ /run/code/train.py:9 in main              │\n"
        "│                                           │\n"
        "│ ❱  9 │   rate = None / 2                  │\n"
        "╰───────────────────────────────────────────╯\n"
        "TypeError: unsupported operand\n"
    )
    assert (failure.exception, failure.file, failure.line) == ("TypeError", "train.py", 9)


@pytest.mark.parametrize(
    ("link", "last", "kind"),
    [
        ("direct", "RuntimeError: cannot prepare", FailureClass.DATA_ERROR),
        ("direct", "TypeError: cannot prepare", FailureClass.DATA_ERROR),
        ("during", "RuntimeError: cannot prepare", FailureClass.DATA_ERROR),
        ("during", "NameError: name 'x' is not defined", FailureClass.USER_ERROR),
    ],
)
def test_an_exception_stands_for_the_one_behind_it_but_a_mistake_in_a_handler_does_not(
    link: str, last: str, kind: FailureClass
) -> None:
    between = {
        "direct": "The above exception was the direct cause of the following exception:",
        "during": "During handling of the above exception, another exception occurred:",
    }[link]
    cause = f"{HEADER}{OWN}FileNotFoundError: [Errno 2] No such file or directory: 'a'\n"
    assert told(f"{cause}\n{between}\n\n{HEADER}{OWN}{last}\n").failure_class is kind
    memory = f"{HEADER}{OWN}MemoryError\n"
    assert told(f"{memory}\n{between}\n\n{HEADER}{OWN}{last}\n").failure_class is FailureClass.OUT_OF_MEMORY


def test_a_crash_is_told_with_the_line_and_the_stacks_that_python_left() -> None:
    dump = (
        "Fatal Python error: Segmentation fault\n\n"
        "Thread 0x00007f01 (most recent call first):\n"
        '  File "/run/code/loader.py", line 2 in fill\n\n'
        "Current thread 0x00007f02 (most recent call first):\n"
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at\n'
        '  File "/run/code/train.py", line 5 in native\n'
        '  File "/run/code/train.py", line 8 in <module>\n\n'
        "Extension modules: numpy (total: 1)\n"
    )
    failure = told(f"loading\n{dump}", None, "SIGSEGV")
    assert (failure.failure_class, failure.file, failure.line) == (FailureClass.UNKNOWN, "train.py", 5)
    assert failure.traceback is not None
    assert "loader.py" in failure.traceback
    assert "Extension" not in failure.traceback
    after = told(f"{HEADER}{OWN}ImportError: libfoo.so.1: undefined symbol: x\n{dump}", None, "SIGSEGV")
    assert (after.failure_class, after.exception) == (FailureClass.ENVIRONMENT_ERROR, "ImportError")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
            "out_of_memory",
        ),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"),
        ("what():  CUDA error: uncorrectable ECC error encountered", "node_bad"),
        ("memory allocation of 34359738368 bytes failed", "out_of_memory"),
        ("free(): invalid pointer", "unknown"),
    ],
)
def test_native_codes_last_words_are_heard(words: str, kind: str) -> None:
    assert told(f"{words}\nFatal Python error: Aborted\n", None, "SIGABRT").failure_class == kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Error: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("ERROR ModuleNotFoundError: No module named 'flash_attn'", "environment_error"),
        ("usage: train.py [-h]\ntrain.py: error: the following arguments are required: --lr", "user_error"),
        ("CUDA out of memory, retrying\nstep 1\nstep 2\nstep 3\nthe goal was not reached", "user_error"),
    ],
)
def test_last_words_without_a_traceback_count_and_earlier_ones_do_not(words: str, kind: str) -> None:
    assert told(words + "\n").failure_class == kind


@pytest.mark.parametrize(
    ("last_line", "kind"),
    [
        (
            "JaxRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 16.00GiB on device",
            "out_of_memory",
        ),
        ("RuntimeError: NCCL Error 1: unhandled cuda error\nCuda failure 2 'out of memory'", "out_of_memory"),
        ("CudaAPIError: [2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", "out_of_memory"),
        ("RuntimeError: CUDA driver error: out of memory", "out_of_memory"),
        ("RuntimeError: No executable batch size found, reached zero.", "out_of_memory"),
        ("torch._C._LinAlgError: linalg.svd: the input matrix contained non-finite values.", "diverged"),
        ("RuntimeError: Failed to find C compiler. Please specify via CC", "environment_error"),
        ("psycopg2.OperationalError: could not connect to server: Connection refused", "environment_error"),
        ("ServerSelectionTimeoutError: db:27017: [Errno -2] Name or service not known", "environment_error"),
        ("HfHubHTTPError: 503 Server Error: Service Unavailable for url: https://x", "environment_error"),
        ("ValueError: Usecols do not match columns, columns expected but not found: ['y']", "data_error"),
        ("polars.exceptions.ColumnNotFoundError: unable to find column 'y'", "data_error"),
        ("polars.exceptions.ComputeError: could not parse `abc` as dtype `i64`", "data_error"),
        ("tomllib.TOMLDecodeError: Expected '=' after a key", "data_error"),
        ("numpy.linalg.LinAlgError: Singular matrix", "user_error"),
    ],
)
def test_libraries_say_it_in_their_own_words(last_line: str, kind: str) -> None:
    assert told(f"{HEADER}{OWN}{last_line}\n").failure_class == kind


def test_a_shells_exit_code_names_a_signal() -> None:
    assert told("Killed\n", 137).failure_class is FailureClass.UNKNOWN
    assert told("Killed\n", 137, oom_kills=1).failure_class is FailureClass.OUT_OF_MEMORY
    assert "SIGSEGV" in told("", 139).message
    assert told("odd\n", 128 + 63).failure_class is FailureClass.USER_ERROR


def test_a_lost_child_is_out_of_memory_only_when_the_kernel_killed_something() -> None:
    lost = f"{HEADER}{OWN}concurrent.futures.process.BrokenProcessPool: A process was terminated abruptly\n"
    assert told(lost).failure_class is FailureClass.UNKNOWN
    assert told(lost, oom_kills=1).failure_class is FailureClass.OUT_OF_MEMORY
    assert told(f"{HEADER}{OWN}TypeError: no\n", oom_kills=1).failure_class is FailureClass.USER_ERROR


def test_a_traceback_that_was_handled_long_before_the_end_is_not_the_reason() -> None:
    handled = f"{HEADER}{OWN}MemoryError\n"
    progress = "".join(f"step {n}\n" for n in range(100))
    failure = told(f"{handled}{progress}giving up\n")
    assert (failure.failure_class, failure.exception) == (FailureClass.USER_ERROR, None)


def test_what_python_prints_after_a_traceback_does_not_hide_it() -> None:
    noise = "Exception ignored in: <function x>\n/usr/lib/python3.11/a.py:3: UserWarning: leaked semaphore\n"
    failure = told(f"{HEADER}{OWN}ValueError: bad rate\n{noise}")
    assert failure.message == "ValueError: bad rate"


def test_a_recipes_own_fault_does_not_ask_for_a_line_that_nobody_sees() -> None:
    recipe = '  File "/lib/trainwright/recipes/forecast/data.py", line 3, in load\n    x\n'
    failure = told(f"{HEADER}{recipe}TypeError: no\n")
    assert (failure.failure_class, failure.file) == (FailureClass.USER_ERROR, None)
    assert (
        failure.hint == "Check the task's parameters and data; if they are right, the recipe itself has a fault."
    )


@pytest.mark.parametrize("sign", SIGNS)
def test_every_sign_can_be_searched_and_says_what_to_do(sign: Sign) -> None:
    assert sign.names or sign.says
    assert sign.hint.rstrip().endswith((".", "GPU; `nvidia-smi` there shows both."))
    assert not sign.fits(last_traceback(f"{HEADER}{OWN}Nothing: \n") or pytest.fail("no traceback"))
