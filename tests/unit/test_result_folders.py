"""The folders that reports are made in: gone at the end, and swept when whoever made them was killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from services.result import folders

MAKES_ONE = """
import asyncio, sys
from services.result import folders

async def main():
    async with folders.folder() as made:
        (made / "report.html").touch()
        print(made, flush=True)
        sys.stdin.read()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_those_of_a_killed_process_are_swept_and_those_in_use_and_new_ones_stay(tmp_path: Path) -> None:
    command, pipe = [sys.executable, "-c", MAKES_ONE], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        made = Path(process.stdout.readline().strip())
        assert made.parent == tmp_path
        new, strange = tmp_path / f"{folders.PREFIX}new", tmp_path / "another-folder"
        for other in (new, strange):
            other.mkdir()
        for old in (made, strange):
            os.utime(old, (time.time() - 2 * folders.YOUNG,) * 2)
        assert folders.sweep() == 0, "its process lives"
        process.send_signal(signal.SIGKILL)
    assert folders.sweep() == 1
    assert sorted(tmp_path.iterdir()) == [strange, new]


async def test_one_is_gone_with_its_block(tmp_path: Path) -> None:
    async def draw() -> None:
        async with folders.folder() as made:
            assert made.parent == tmp_path
            (made / "bundle").mkdir()
            raise RuntimeError("the report cannot be drawn")

    with pytest.raises(RuntimeError):
        await draw()
    assert not os.listdir(tmp_path)
