"""Bugs that tests put into the real programs, to see that their checkers find them: changed as Python starts.

Not here: those of the simulation, which is one process (tests/simulation/mutations.py), and those of the counting
service, which has them built in (tests/integration/protocol_process.py).
"""

import os
from pathlib import Path

NO_FENCE = """
from trainwright.storage import series

series.fence_of = lambda *_: series.Fence()
"""
"""What is read of a run's points is not fenced: those of attempts that were replaced show."""

NO_INBOX = """
from contextvars import ContextVar
from trainwright.runtime import apply

skips, apply_one, is_news = ContextVar("skips"), apply._apply_one, apply.is_news

async def apply_and_note(record, inbound, tx, done):
    skips.set(inbound.service == "{service}")
    await apply_one(record, inbound, tx, done)

async def all_news(event, tx, scope):
    return await is_news(event, tx, scope) or skips.get()

apply._apply_one, apply.is_news = apply_and_note, all_news
"""
"""One service takes every event for news, however often it comes."""


def planted(bug: str, folder: Path) -> dict[str, str]:
    """Return the environment in which Python programs have a bug; it is written into an empty folder."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(bug)
    known = [path] if (path := os.environ.get("PYTHONPATH")) else []
    return {"PYTHONPATH": os.pathsep.join([str(folder), *known])}
