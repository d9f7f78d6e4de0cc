"""Why a run failed: a pure function over how the process ended and what it last wrote.

Evidence counts in this order: who ended it (the shim's word), the exception that ended it with what is behind it,
the signal, the last words, the exit code.
Not here: signs of single failures (signs.py), tracebacks (traces.py), a run that still lives (watch.py), what is
done about it (the task service owns that policy).
"""

import re
import signal as signals
import sys
from dataclasses import dataclass

from trainwright.contracts.failure import Failure, FailureClass
from trainwright.training.signs import OWN_SCRIPT_HINT, RECIPE_HINT, Sign, sign_of
from trainwright.training.traces import Frame, Trace, crash_frame, crash_stacks, last_traceback, last_words

_RECIPES = "/trainwright/recipes/"
_MAX_TRACEBACK = 16_000
_MAX_MESSAGE = 2_000
_STALE_LINES = 50
"""A traceback with more lines after it was handled: the run went on, and ended for another reason."""
_CRASHES = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")
_LOST_CHILD = re.compile(
    r"BrokenProcessPool|SIGKILL|exitcode: -9|exit code -9|killed by signal|terminated abruptly|EOFError"
    r"|BrokenPipeError|ConnectionResetError|Connection (closed|reset) by peer|queue\.Empty|\bEmpty\b"
)
_PROGRAMMING = re.compile(
    r"(Name|UnboundLocal|Type|Attribute|Key|Index|Lookup|Assertion|ZeroDivision|Recursion|Syntax|Indentation|Tab"
    r"|NotImplemented)Error"
)
_AT_STEP = re.compile(r"\bat step (\d{1,18})\b")
_KERNEL = "the kernel killed a process of the run because the machine was out of memory"
_MEMORY_HINT = "Use a smaller batch or less data at a time, or ask for more memory (`resource_requirements`)."
_PACKAGES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""What is to be installed for a module of another name."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Hold how a process ended: `reason` is the shim's word for who ended it, `stderr` the tail of what it
    wrote, `folder` where the task's files lie, `oom_kills` what the kernel killed meanwhile for want of memory.
    """

    exit_code: int | None = None
    signal: str | None = None
    reason: str = "exited"
    error: str | None = None
    stderr: str = ""
    oom_kills: int = 0
    folder: str = ""


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was decided, and the evidence shown with it."""

    failure_class: FailureClass
    message: str
    hint: str | None = None
    trace: Trace | None = None
    stacks: str | None = None
    place: Frame | None = None


def classify(ending: Ending) -> Failure:
    """Return the failure that `ending` shows; call it only for a run that did not complete."""
    found = _find(ending)
    trace = found.trace
    file, line = (trace.file, trace.line) if trace else (None, None)
    if found.place is not None:
        file, line = found.place.file, found.place.line
    if file is not None and _RECIPES in file:
        file, line = None, None
    shown = trace.text if trace else found.stacks
    return Failure(
        failure_class=found.failure_class,
        message=found.message[:_MAX_MESSAGE],
        exception=trace.exception if trace else None,
        traceback=shown[-_MAX_TRACEBACK:] if shown else None,
        file=_as_submitted(file, ending.folder),
        line=line,
        hint=found.hint,
        exit_code=ending.exit_code,
        signal=ending.signal,
        bad_step=_bad_step(found),
    )


def _bad_step(found: _Finding) -> int | None:
    """Return the step that a diverged run named itself, as our own loop does."""
    named = _AT_STEP.search(found.message) if found.failure_class is FailureClass.DIVERGED else None
    return int(named[1]) if named else None


def _as_submitted(file: str | None, folder: str) -> str | None:
    return file.removeprefix(folder.rstrip("/") + "/") if file is not None and folder else file


def _find(ending: Ending) -> _Finding:
    if ending.reason == "not_started":
        message = ending.error or "the process could not be started"
        return _Finding(FailureClass.ENVIRONMENT_ERROR, message, "Check the worker's installation of Python.")
    trace = last_traceback(ending.stderr, ending.folder)
    if trace is not None and trace.lines_after > _STALE_LINES:
        trace = None
    signal = _signal_of(ending)
    if signal is None or signal == "SIGINT":
        if trace is not None:
            return _by_trace(ending, trace)
        if signal is None:
            return _by_words(ending)
    return _by_signal(ending, signal, trace)


def _signal_of(ending: Ending) -> str | None:
    """Return the signal that ended the run's process, or a process that a shell started for it."""
    code = ending.exit_code or 0
    if ending.signal is not None or not 128 < code < 160:
        return ending.signal
    return signals.Signals(code - 128).name


def _by_trace(ending: Ending, trace: Trace) -> _Finding:
    sign, told_by = _sign_behind(trace)
    message = _full_sentence(trace, told_by)
    unexplained = sign is None or sign.failure_class is FailureClass.UNKNOWN
    if ending.oom_kills > 0 and unexplained and _LOST_CHILD.search(message):
        return _Finding(FailureClass.OUT_OF_MEMORY, f"{_KERNEL}: {message}", _MEMORY_HINT, trace)
    if sign is not None:
        if told_by.exception == "DataError" and told_by.message:  # a recipe's own word: it names the fix itself
            hint = "Correct the data or what the task says of it; submit again."
            return _Finding(FailureClass.DATA_ERROR, told_by.message, hint, trace)
        return _Finding(sign.failure_class, message, _hint_of(sign, told_by), trace)
    in_recipe = trace.file is not None and _RECIPES in trace.file
    return _Finding(FailureClass.USER_ERROR, message, RECIPE_HINT if in_recipe else OWN_SCRIPT_HINT, trace)


def _sign_behind(trace: Trace) -> tuple[Sign | None, Trace]:
    """Return the sign of an exception, or of the one behind it, and which of them showed it.

    A mistake in the handler of another exception is a mistake; an exception raised on purpose stands for the one
    that it names, or that it was raised about. Missing memory and broken machines count wherever they stand.
    """
    sign = sign_of(trace)
    if sign is not None:
        return sign, trace
    mistaken = bool(_PROGRAMMING.fullmatch(trace.exception))
    for cause in trace.causes:
        behind = sign_of(cause)
        if behind is None:
            continue
        grave = behind.failure_class in (FailureClass.OUT_OF_MEMORY, FailureClass.NODE_BAD)
        if grave or cause.direct or not mistaken:
            return behind, cause
    return None, trace


def _full_sentence(trace: Trace, told_by: Trace) -> str:
    return trace.sentence if told_by is trace else f"{trace.sentence} (because of {told_by.sentence})"


def _hint_of(sign: Sign, trace: Trace) -> str:
    name = re.search(r"No module named '([\w.]+)'", trace.message)
    if name is None:
        return sign.hint
    package = _PACKAGES.get(name[1].partition(".")[0], name[1])
    place = f"where the worker runs, for {sys.executable}"
    return f"Install {package!r} {place}; if it is a file of yours, submit it with the task."


def _by_signal(ending: Ending, signal: str | None, trace: Trace | None) -> _Finding:
    stacks = crash_stacks(ending.stderr) if signal in _CRASHES else None
    place = crash_frame(stacks, ending.folder) if stacks else None
    after = trace.lines_after - len([line for line in (stacks or "").splitlines() if line.strip()]) if trace else 0
    if signal in _CRASHES and trace is not None and after <= 5:
        return _by_trace(ending, trace)  # the interpreter crashed on its way out, after the real reason
    if signal == "SIGKILL" and ending.oom_kills > 0 and ending.reason == "exited":
        return _Finding(FailureClass.OUT_OF_MEMORY, _KERNEL, _MEMORY_HINT)
    words = _native_words(ending.stderr) if signal in _CRASHES else None
    message = f"the process was ended by signal {signal}" + (f": {words}" if words else "")
    sign = sign_of(Trace("", words, "", None, None)) if words else None
    if sign is not None:
        return _Finding(sign.failure_class, message, sign.hint, stacks=stacks, place=place)
    kind, hint = _SIGNALS.get(signal or "", (FailureClass.UNKNOWN, "The logs show what it wrote before."))
    return _Finding(kind, message, hint, stacks=stacks, place=place)


_SIGNALS = {
    "SIGKILL": (
        FailureClass.UNKNOWN,
        "Something outside of Trainwright killed it; often the system, for want of memory.",
    ),
    "SIGSEGV": (FailureClass.UNKNOWN, "A native library crashed; often two packages that do not fit together."),
    "SIGABRT": (FailureClass.UNKNOWN, "A native library gave up; the logs show its last words."),
    "SIGBUS": (FailureClass.UNKNOWN, "Often a full /dev/shm: use fewer data loader workers."),
    "SIGFPE": (FailureClass.UNKNOWN, "A native library divided by zero; look at empty inputs."),
    "SIGILL": (
        FailureClass.ENVIRONMENT_ERROR,
        "A native library was built for another processor: install it anew.",
    ),
    "SIGXCPU": (
        FailureClass.ENVIRONMENT_ERROR,
        "The worker's limit of CPU time was reached: see `ulimit -t` there.",
    ),
    "SIGXFSZ": (FailureClass.ENVIRONMENT_ERROR, "A file grew beyond the worker's limit: see `ulimit -f` there."),
    "SIGSYS": (FailureClass.ENVIRONMENT_ERROR, "The worker's sandbox forbids a call that a library makes."),
    "SIGTERM": (FailureClass.UNKNOWN, "Something outside of Trainwright ended it."),
    "SIGINT": (FailureClass.UNKNOWN, "Somebody interrupted it."),
}


def _native_words(stderr: str) -> str | None:
    """Return what native code wrote before it gave up, or None."""
    lines = last_words(stderr, 200)
    for number, line in enumerate(lines):
        said = re.match(r"what\(\): +(.*)", line)
        if said:
            return "\n".join([said[1], *lines[number + 1 : number + 2]])
        if re.match(r"memory allocation of \d+ bytes failed", line):  # Rust's last word
            return line
        if line.startswith("terminate called after throwing an instance of"):
            thrown = line.rpartition(" of ")[2].strip("'")
            if not any("what()" in later for later in lines[number:]):
                return thrown
    return None


def _by_words(ending: Ending) -> _Finding:
    """Judge a run that left no traceback: by its last words, which are its own explanation."""
    code = f"the process ended with exit code {ending.exit_code}"
    words = last_words(ending.stderr, 3)
    if not words:
        hint = "It wrote no error: let the script say why it ends; exit code 0 would be completed."
        return _Finding(FailureClass.USER_ERROR, code, hint)
    sign = next((sign for line in reversed(words) if (sign := _sign_of_words(line))), None)
    message = f"{code}: {words[-1]}"
    if sign is not None:
        return _Finding(sign.failure_class, message, sign.hint)
    if re.match(r"\S+: error: ", words[-1]):
        return _Finding(FailureClass.USER_ERROR, message, "Correct the script's arguments (`parameters.args`).")
    return _Finding(FailureClass.USER_ERROR, message, "The logs show what it wrote before.")


def _sign_of_words(line: str) -> Sign | None:
    """Return the sign in a line such as `RuntimeError: CUDA out of memory.`, an exception that was caught."""
    match = re.search(r"(?:^|\s)(?P<name>[\w.]*(?:Error|Exception)): (?P<rest>.*)$", line)
    exception, message = (match["name"].rpartition(".")[2], match["rest"]) if match else ("", line)
    sign = sign_of(Trace(exception, message, "", None, None))
    return sign if sign is None or match or sign.says else None
