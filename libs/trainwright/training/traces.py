"""Find in what a run wrote to stderr the traceback that tells why it ended, and the user's own line in it.

Read are chains of exceptions, groups, tracebacks inside messages (a data loader's worker, a spawned process, a
pool), several ranks mixed into one file, boxes drawn by `rich`, and the stacks that `faulthandler` leaves.
Not here: what a traceback means (classify.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainwright.training.text import printable

_HEADER = re.compile(r"Traceback \(most recent call last\):?\s*$")
_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line (?P<line>\d+)')
_BARE_FRAME = re.compile(r'^  File "[^"]+", line \d+$')
_LAST_LINE = re.compile(r"^(?P<type>[A-Za-z_][\w.]*(?:<locals>[\w.]*)*)(?:: ?(?P<message>.*))?$")
_GROUP = "Exception Group Traceback (most recent call last):"
_MARGIN = re.compile(r"^ +[|+] ?")
_RULE = re.compile(r"^[+-]*-{8,}( [\d.]+ -{8,})?$")
_RANK = re.compile(r"^\[(?:rank|default)(\d+)\]: ?")
_BOX_FRAME = re.compile(r"^[│|] (?P<file>\S+\.py):(?P<line>\d+) in (?P<name>\S+)\s*[│|]?$")
_DIRECT = "The above exception was the direct cause of the following exception:"
_DURING = "During handling of the above exception, another exception occurred:"
_NESTED = re.compile(r"\ACaught \w+ in |\A(?:\s*-- )?Process \d+ terminated with the following error")
_FOREIGN = re.compile(
    r'^(?:"""|Exception in thread |Exception ignored in|Process \S+:$|wandb: |Fatal Python error: |/\S+:\d+: \w+: '
    r"|\[[WEI]\d{3,})"
)
_CRASH = re.compile(
    r"^(?:Fatal Python error: (?P<what>.*)|(?:Current t|T)hread 0x[0-9a-f]+ .*\(most recent call first\):)$"
)
_NOT_OWN = ("site-packages", "dist-packages", "/lib/python3", "/trainwright/training/", "/trainwright/recipes/")
_COMPILED = (".pyx", ".pxi", ".pxd")
_LAUNCHERS = ("ChildFailedError", "CalledProcessError", "ProcessExitedException", "ProcessRaisedException")
_BYSTANDER = re.compile(r"Connection closed by peer|Connection reset by peer|ncclRemoteError|Broken pipe", re.I)
_LONGEST_LINE = 2_000
_LONGEST_MESSAGE = 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack: `code` is its source as the traceback shows it, `marked` the part that failed."""

    file: str
    line: int
    code: str = ""
    marked: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold a Python traceback: the exception and the innermost line of the user's own code.

    `causes` are the exceptions behind this one, the nearest first; a `direct` one was named with `from`, the
    others were being handled. `lines_after` tells how much was written after the traceback.
    """

    exception: str
    message: str
    text: str
    file: str | None
    line: int | None
    frames: tuple[Frame, ...] = ()
    own: Frame | None = None
    causes: tuple["Trace", ...] = ()
    direct: bool = False
    lines_after: int = 0

    @property
    def sentence(self) -> str:
        """Return the exception as Python's last line shows it."""
        return f"{self.exception}: {self.message}" if self.message else self.exception


@dataclass(slots=True)
class _Block:
    """One traceback as it stands in the text: lines `start` to `end`, and what links it to the one before."""

    start: int
    end: int
    exception: str
    message: str
    frames: tuple[Frame, ...]
    link: str | None = None


def last_traceback(stderr: str, folder: str = "") -> Trace | None:
    """Return the traceback that tells why the process ended, or None; code in `folder` is the user's own.

    That is the last one, unless it only says that a process of the run has failed: then it is that one's.
    """
    lines = _plain_lines(stderr)
    blocks = _blocks(lines)
    if not blocks:
        return None
    chains: list[list[_Block]] = []
    for block in blocks:
        if block.link is None or not chains:
            chains.append([])
        chains[-1].append(block)
    chain = _telling(chains)
    after = sum(1 for line in lines[blocks[-1].end :] if line.strip())
    return replace(_trace(chain, lines, folder), lines_after=after)


def crash_stacks(stderr: str) -> str | None:
    """Return the stacks of all threads that `faulthandler` wrote last, or None."""
    lines = [line[:_LONGEST_LINE] for line in printable(stderr).splitlines()]
    marks = [number for number, line in enumerate(lines) if _CRASH.match(line)]
    if not marks:
        return None
    titles = [number for number in marks if lines[number].startswith("Fatal")]
    start = titles[-1] if titles else marks[0]
    end = marks[-1] + 1
    while end < len(lines) and (_FRAME.match(lines[end]) or lines[end].strip() in ("...", "<no Python frame>")):
        end += 1
    return "\n".join(lines[start:end])


def crash_frame(stacks: str, folder: str = "") -> Frame | None:
    """Return the user's own innermost line of the thread that crashed, or None."""
    current = stacks.partition("Current thread ")[2].partition("\n\n")[0]
    for text in current.splitlines():
        match = _FRAME.match(text)
        if match and _is_own(match["file"], folder):
            return Frame(match["file"], int(match["line"]))
    return None


def last_words(stderr: str, count: int = 1) -> list[str]:
    """Return the last lines that are not empty, at most `count`, in their order."""
    kept: list[str] = []
    for line in reversed(printable(stderr[-64 * 1024 :]).splitlines()):
        if line.strip():
            kept.append(line.strip()[:_LONGEST_LINE])
            if len(kept) == count:
                break
    return kept[::-1]


def _plain_lines(stderr: str) -> list[str]:
    """Return the lines of stderr in which every traceback looks like Python's own."""
    lines = [line[:_LONGEST_LINE] for line in printable(stderr).splitlines()]
    lines = _by_rank(lines)
    if any(line.startswith("╭") for line in lines):
        lines = [plain for line in lines if (plain := _without_box(line)) is not None]
    if any(line.strip(" |+") == _GROUP for line in lines):
        lines = [_MARGIN.sub("", line).removeprefix("Exception Group ") for line in lines]
        lines = [line for line in lines if not _RULE.match(line)]
    return lines


def _by_rank(lines: list[str]) -> list[str]:
    """Return the lines with those of each rank together, where the last rank's line was."""
    ranks: dict[str, list[str]] = {}
    rest: list[str] = []
    place = 0
    for line in lines:
        match = _RANK.match(line)
        if match:
            ranks.setdefault(match[1], []).append(line[match.end() :])
            place = len(rest)
        else:
            rest.append(line)
    if not ranks:
        return lines
    return rest[:place] + [line for rank in sorted(ranks, key=int) for line in ranks[rank]] + rest[place:]


def _without_box(line: str) -> str | None:
    if line.startswith("╭"):
        return "Traceback (most recent call last):" if "Traceback" in line else None
    if line.startswith("╰"):
        return None
    frame = _BOX_FRAME.match(line)
    if frame:
        return f'  File "{frame["file"]}", line {frame["line"]}, in {frame["name"]}'
    return "    " + line.strip("│| ") if line.startswith("│") else line


def _blocks(lines: Sequence[str]) -> list[_Block]:
    blocks: list[_Block] = []
    number = 0
    while number < len(lines):
        bare = _BARE_FRAME.match(lines[number])  # a SyntaxError of the script itself has no header
        if not bare and not _HEADER.search(lines[number]):
            number += 1
            continue
        block = _block(lines, number)
        if block is None:
            number += 1
            continue
        if blocks:
            block.link = _link(lines, blocks[-1], block)
        blocks.append(block)
        number = block.end
    return blocks


def _block(lines: Sequence[str], start: int) -> _Block | None:
    """Return the traceback that begins at `start`, or None when it is no whole one."""
    frames: list[Frame] = []
    number = start if _FRAME.match(lines[start]) else start + 1
    while number < len(lines) and lines[number].startswith(" "):
        match = _FRAME.match(lines[number])
        if match:
            frames.append(Frame(match["file"], int(match["line"])))
        elif frames and lines[number].strip() and not frames[-1].code:
            frames[-1] = replace(frames[-1], code=lines[number])
        elif frames and set(lines[number].strip()) <= set("~^") and lines[number].strip():
            frames[-1] = replace(frames[-1], marked=_marked(frames[-1].code, lines[number]))
        number += 1
    last = _LAST_LINE.match(lines[number]) if number < len(lines) else None
    if last is None or (":" not in lines[number] and not last["type"].rpartition(".")[2][:1].isupper()):
        return None
    if not frames and start == number:
        return None
    message = [last["message"] or ""]
    end = number + 1
    while end < len(lines) and len(message) < _LONGEST_MESSAGE and not _is_other(lines[end]):
        message.append(lines[end])
        end += 1
    text = "\n".join(line for line in message if line.strip()).strip()
    return _Block(start, end, last["type"].rpartition(".")[2], text, tuple(frames))


def _is_other(line: str) -> bool:
    """Return whether a line after an exception's own does not belong to its message."""
    return bool(_HEADER.search(line) or line in (_DIRECT, _DURING) or _FOREIGN.match(line))


def _marked(code: str, marks: str) -> str:
    begin = len(marks) - len(marks.lstrip())
    return code[begin : len(marks.rstrip())]


def _link(lines: Sequence[str], before: _Block, block: _Block) -> str | None:
    between = {line.strip() for line in lines[before.end : block.start]} - {"", '"""'}
    if between == {_DIRECT}:
        return "direct"
    if between == {_DURING}:
        return "during"
    if not between and (_NESTED.search(before.message) or lines[block.start].startswith("Original ")):
        return "nested"
    return None


def _telling(chains: Sequence[list[_Block]]) -> list[_Block]:
    """Return the chain that tells why the run ended."""
    last = chains[-1]
    if last[-1].exception not in _LAUNCHERS or len(chains) == 1:
        return last
    others = [chain for chain in chains[:-1] if chain[-1].exception not in _LAUNCHERS] or [last]
    telling = [chain for chain in others if not _BYSTANDER.search(chain[-1].message)]
    return (telling or others)[-1]


def _trace(chain: Sequence[_Block], lines: Sequence[str], folder: str) -> Trace:
    """Return a chain as one trace: its last exception, or the cause from another process that it repeats."""
    text = "\n".join(line for line in lines[chain[0].start : chain[-1].end] if line.strip())
    chosen = len(chain) - 1
    while chosen > 0 and chain[chosen].link == "direct" and _only_passes_on(chain, chosen, folder):
        chosen -= 1
    block = chain[chosen]
    own = _own_frame(block.frames, folder)
    for other in reversed(chain[:chosen]):
        own = own or (_own_frame(other.frames, folder) if block.link == "nested" else None)
    place = own or (block.frames[-1] if block.frames else None)
    causes = [
        Trace(
            item.exception,
            item.message,
            "",
            None,
            None,
            item.frames,
            _own_frame(item.frames, folder),
            direct=(chain[number + 1].link == "direct"),
        )
        for number, item in enumerate(chain[:chosen])
        if chain[number + 1].link != "nested"
    ]
    return Trace(
        exception=block.exception,
        message=block.message,
        text=text,
        file=place.file if place else None,
        line=place.line if place else None,
        frames=block.frames,
        own=own,
        causes=tuple(reversed(causes)),
    )


def _only_passes_on(chain: Sequence[_Block], number: int, folder: str) -> bool:
    """Return whether a library raised this one about an exception of the user's own code."""
    raised_at = chain[number].frames[-1].file if chain[number].frames else ""
    cause = _own_frame(chain[number - 1].frames, folder)
    return not _is_own(raised_at, folder) and cause is not None


def _own_frame(frames: Sequence[Frame], folder: str) -> Frame | None:
    own = [frame for frame in frames if _is_own(frame.file, folder)]
    return own[-1] if own else None


def _is_own(file: str, folder: str) -> bool:
    if folder and file.startswith(folder.rstrip("/") + "/"):
        return "site-packages" not in file.removeprefix(folder)
    return not file.startswith("<") and not file.endswith(_COMPILED) and not any(part in file for part in _NOT_OWN)
