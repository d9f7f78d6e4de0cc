"""Scripts in processes of their own, as a worker's child or alone, and what they left."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import patient
from trainwright.training import layout
from trainwright.training.spool import Record, SpoolReader


@contextmanager
def start(script: str, folder: Path, *, worker: bool = True) -> "Iterator[subprocess.Popen[str]]":
    """Have it run until the end of the block; killed if it did not end by then."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRAINWRIGHT_")}
    if worker:
        environment[layout.RUN_DIR_VARIABLE] = str(folder)
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", textwrap.dedent(script)],
        env=environment,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(script: str, folder: Path, *, worker: bool = True) -> "subprocess.CompletedProcess[str]":
    with start(script, folder, worker=worker) as process:
        out, error = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def records(folder: Path) -> list[Record]:
    reader = SpoolReader(folder / layout.SPOOL)
    found: list[Record] = []
    while some := reader.read():
        found += some
    reader.close()
    return found


def wait_for(path: Path) -> None:
    deadline = patient(20)
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.01)
