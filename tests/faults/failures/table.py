"""What each script of `scripts/` should be taken for: its first word says it; here is what else it needs.

A line marked `# here` is where the failure happens: that line must be named. Scripts are no `.py` files, because
they are wrong on purpose.
"""

from dataclasses import dataclass
from pathlib import Path

from trainwright.contracts.failure import FailureClass

SCRIPTS = Path(__file__).with_name("scripts")

EXPECTED: dict[str, FailureClass | None] = {
    "memory": FailureClass.OUT_OF_MEMORY,
    "diverged": FailureClass.DIVERGED,
    "hung": FailureClass.HUNG,
    "timed": FailureClass.TIMED_OUT,
    "node": FailureClass.NODE_BAD,
    "data": FailureClass.DATA_ERROR,
    "environment": FailureClass.ENVIRONMENT_ERROR,
    "user": FailureClass.USER_ERROR,
    "unknown": FailureClass.UNKNOWN,
    "healthy": None,
}
HANG_AFTER = 1.0
"""Seconds that stand for the minute of `watch.hang_after`, so that the campaign takes minutes and not hours."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a script needs beside itself: `outside` is the signal that somebody else sends once it is ready."""

    hang_after: float = HANG_AFTER
    timeout: float | None = None
    outside: str | None = None
    cgroup: bool = False
    mount: str | None = None
    short: bool = False


NEEDS: dict[str, Needs] = {
    "memory_error": Needs(short=True),
    "memory_killed_by_kernel": Needs(cgroup=True, short=True),
    "memory_loader_killed_by_kernel": Needs(cgroup=True),
    "memory_masked_by_its_handler": Needs(short=True),
    "memory_pool_killed_by_kernel": Needs(cgroup=True, short=True),
    "diverged_nan": Needs(short=True),
    "hung_busy_loop": Needs(hang_after=0.5),
    "hung_two_locks": Needs(short=True),
    "timed_out": Needs(timeout=2.0, short=True),
    "timed_out_silent": Needs(timeout=2.0),
    "node_io_error": Needs(short=True),
    "data_csv_value": Needs(short=True),
    "data_in_pool": Needs(short=True),
    "environment_disk_full": Needs(mount="small", short=True),
    "environment_disk_full_torch": Needs(mount="small"),
    "environment_read_only": Needs(mount="readonly"),
    "user_after_words_about_memory": Needs(short=True),
    "user_called_script": Needs(short=True),
    "user_group": Needs(short=True),
    "unknown_killed": Needs(outside="SIGKILL", short=True),
    "unknown_segfault": Needs(short=True),
    "unknown_terminated": Needs(outside="SIGTERM"),
    "healthy_pauses_for_checkpoints": Needs(short=True),
    "healthy_words_about_memory": Needs(short=True),
    "healthy_infinite_losses_of_half_precision": Needs(short=True),
    "healthy_spikes_and_restarts": Needs(short=True),
}


def names(short: bool = False) -> list[str]:
    """Return the names of all scripts, or of the few that stand for them."""
    found = sorted(path.stem for path in SCRIPTS.glob("*.script"))
    return [name for name in found if not short or needs(name).short]


def needs(name: str) -> Needs:
    """Return what a script needs."""
    return NEEDS.get(name, Needs())


def expected(name: str) -> FailureClass | None:
    """Return what a script should be taken for; None when it is healthy."""
    return EXPECTED[name.split("_")[0]]


def failing_line(name: str) -> int | None:
    """Return the number of the line marked `# here`, from 1, or None."""
    lines = (SCRIPTS / f"{name}.script").read_text().splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.endswith("# here")), None)
