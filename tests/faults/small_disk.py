"""A disk that is small enough to be full, where something may be mounted."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIECE = 64 * 1024


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Have a small disk at a folder until the end of the block; give whether that was permitted here."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "trainwright-faults", str(folder)]
    done = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def full_for(folder: Path, seconds: float) -> None:
    """Fill the disk that a folder is on to its last byte, for so long."""
    filler = folder / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(PIECE))
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1))
        time.sleep(seconds)
    finally:
        filler.unlink(missing_ok=True)
