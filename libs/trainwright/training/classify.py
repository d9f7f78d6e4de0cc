"""Why a run failed: a pure function over how the process ended and what it last wrote.

Not here: what is done about it; the task service owns that policy.
"""

import re
from dataclasses import dataclass

from trainwright.contracts.attempt import Failure, FailureClass
from trainwright.training.text import printable

OWN_SCRIPT_HINT = "Fix the line shown, then submit again."
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LAST_LINE = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_GROUP = "Exception Group Traceback (most recent call last):"
_MARGIN = re.compile(r"^ +[|+] ?")
_RULE = re.compile(r"^[+-]*-{8,}( [\d.]+ -{8,})?$")
_NOT_OWN = ("site-packages", "dist-packages", "/lib/python3", "/trainwright/training/", "/trainwright/recipes/")
_RECIPES = "/trainwright/recipes/"
_MAX_TRACEBACK = 16_000
_MAX_MESSAGE = 2_000
_CUDA_MEMORY = (
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "HIP out of memory",
    "MPS backend out of memory",
)
_HOST_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "Cannot allocate memory", "std::bad_alloc")
_DATA_TYPES = ("FileNotFoundError", "DataError", "UnicodeDecodeError", "ParserError", "EmptyDataError")


@dataclass(frozen=True, slots=True)
class Ending:
    """Hold how a process ended: `reason` is the shim's word for who ended it, `stderr` the tail of what it
    wrote, `folder` where the task's files lie.
    """

    exit_code: int | None = None
    signal: str | None = None
    reason: str = "exited"
    error: str | None = None
    stderr: str = ""
    oom_kills: int = 0
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold a Python traceback: the exception and the innermost line of the user's own code."""

    exception: str
    message: str
    text: str
    file: str | None
    line: int | None


def classify(ending: Ending) -> Failure:
    """Return the failure that `ending` shows; call it only for a run that did not complete."""
    trace = last_traceback(ending.stderr)
    in_recipe = trace is not None and trace.file is not None and _RECIPES in trace.file
    kind, message, hint = _decide(ending, trace)
    return Failure(
        failure_class=kind,
        message=message[:_MAX_MESSAGE],
        exception=trace.exception if trace else None,
        traceback=trace.text[-_MAX_TRACEBACK:] if trace else None,
        file=_as_submitted(trace.file, ending.folder) if trace and not in_recipe else None,
        line=trace.line if trace and not in_recipe else None,
        hint=hint,
        exit_code=ending.exit_code,
        signal=ending.signal,
    )


def _as_submitted(file: str | None, folder: str) -> str | None:
    return file.removeprefix(folder.rstrip("/") + "/") if file is not None and folder else file


def last_traceback(stderr: str) -> Trace | None:
    """Return the last traceback in `stderr` (that of a SyntaxError has no header), or None."""
    lines = _without_margins(printable(stderr).splitlines())
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    if not frames:
        return None
    start = starts[-1] if starts else frames[-1]
    ends = [number for number in range(max(start, frames[-1]) + 1, len(lines)) if _ends_trace(lines[number])]
    if not ends:
        return None
    found = _LAST_LINE.match(lines[ends[0]])
    assert found is not None
    rest = [line for line in lines[ends[0] + 1 : ends[0] + 20] if line.strip()]
    message = "\n".join([found["message"] or "", *rest]).strip()
    file, line = _own_frame([match for text in lines[start : ends[0]] if (match := _FRAME.match(text))])
    text = "\n".join(lines[start : ends[0] + 1 + len(rest)])
    return Trace(found["type"].rpartition(".")[2], message, text, file, line)


def _without_margins(lines: list[str]) -> list[str]:
    """Return lines in which the tracebacks of an exception group look like any other."""
    if not any(line.strip(" |+") == _GROUP for line in lines):
        return lines
    plain = [_MARGIN.sub("", line).removeprefix("Exception Group ") for line in lines]
    return [line for line in plain if not _RULE.match(line)]


def _ends_trace(line: str) -> bool:
    match = _LAST_LINE.match(line)
    return match is not None and (":" in line or match["type"][0].isupper())


def _own_frame(frames: list[re.Match[str]]) -> tuple[str | None, int | None]:
    """Return the innermost frame that is not in an installed package; the innermost one when all are."""
    own = [match for match in frames if not match["file"].startswith("<") and _is_own(match["file"])]
    chosen = (own or frames)[-1] if frames else None
    return (chosen["file"], int(chosen["line"])) if chosen else (None, None)


def _is_own(file: str) -> bool:
    return not any(part in file for part in _NOT_OWN)


def _decide(ending: Ending, trace: Trace | None) -> tuple[FailureClass, str, str | None]:
    if ending.reason == "not_started":
        return FailureClass.ENVIRONMENT_ERROR, ending.error or "the process could not be started", None
    memory = _memory(ending, trace)
    if memory is not None:
        return memory
    if ending.signal is not None:
        return _by_signal(ending)
    if trace is not None:
        return _by_exception(trace)
    written = printable(ending.stderr).splitlines()
    last = next((line.strip() for line in reversed(written) if line.strip()), "")
    code = f"the process ended with exit code {ending.exit_code}"
    if not last:
        return FailureClass.USER_ERROR, code, "It wrote no error; exit code 0 would be completed."
    return FailureClass.USER_ERROR, f"{code}: {last}", "The logs show what it wrote before."


def _sentence(trace: Trace) -> str:
    return f"{trace.exception}: {trace.message}" if trace.message else trace.exception


def _memory(ending: Ending, trace: Trace | None) -> tuple[FailureClass, str, str | None] | None:
    evidence = _sentence(trace) if trace else ""
    if any(text in evidence for text in _CUDA_MEMORY) or (trace and trace.exception == "OutOfMemoryError"):
        hint = "Use a smaller batch, or ask for a GPU with more memory."
        return FailureClass.OUT_OF_MEMORY, evidence, hint
    if (trace and trace.exception == "MemoryError") or any(text in evidence for text in _HOST_MEMORY):
        return FailureClass.OUT_OF_MEMORY, evidence, "Use a smaller batch or read the data in pieces."
    if ending.signal == "SIGKILL" and ending.oom_kills > 0 and ending.reason == "exited":
        message = "the kernel killed a process of the run because the machine was out of memory"
        return FailureClass.OUT_OF_MEMORY, message, "Use a smaller batch, or ask for more memory."
    return None


def _by_signal(ending: Ending) -> tuple[FailureClass, str, str | None]:
    message = f"the process was ended by signal {ending.signal}"
    hints = {
        "SIGKILL": "Something outside of Trainwright killed it; often the system, for want of memory.",
        "SIGSEGV": "A native library crashed; often two packages that do not fit together.",
        "SIGABRT": "A native library gave up; the logs show its last words.",
        "SIGBUS": "Often a full /dev/shm: use fewer data loader workers.",
    }
    return FailureClass.UNKNOWN, message, hints.get(ending.signal or "")


def _by_exception(trace: Trace) -> tuple[FailureClass, str, str | None]:
    message = _sentence(trace)
    if trace.exception in ("ModuleNotFoundError", "ImportError"):
        name = re.search(r"named '([\w.]+)'", trace.message)
        hint = f"Install {name[1]!r} where the worker runs." if name else "Install what is missing on the worker."
        return FailureClass.ENVIRONMENT_ERROR, message, hint
    if trace.exception == "DataError" and trace.message:  # a recipe's own word: it names the fix itself
        return (
            FailureClass.DATA_ERROR,
            trace.message,
            "Correct the data or what the task says of it; submit again.",
        )
    if trace.exception in _DATA_TYPES:
        return (
            FailureClass.DATA_ERROR,
            message,
            "Check the data's path and content; a task's files lie in its work folder.",
        )
    if trace.exception == "OSError" and "No space left" in trace.message:
        return FailureClass.ENVIRONMENT_ERROR, message, "Free some disk space on the worker."
    if trace.exception == "ValidationError":
        return FailureClass.USER_ERROR, message, "Correct the parameters named, then submit again."
    return FailureClass.USER_ERROR, message, OWN_SCRIPT_HINT
