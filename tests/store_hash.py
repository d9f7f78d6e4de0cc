"""What a service knows, as one hash: all that lies in its SQLite file, but for what may change by itself."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

MAY_CHANGE: dict[str, str] = {
    "outbox": "what has been sent is kept for a day and then swept; what is said is compared on the log",
    "log_position": "where the relay got on the log, which grows",
    "lease": "the leader's beats",
    "c_use": "what the scheduler measures by the minute, whether or not anybody speaks",
}
"""Tables that are left out, in every service, each with its reason."""


def rows_of(store: Path) -> dict[str, list[str]]:
    """Return all rows of a store by table, in an order that does not depend on when they were written."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        return {
            name: sorted(repr(row) for row in connection.execute(f'SELECT * FROM "{name}"'))
            for (name,) in tables
            if name not in MAY_CHANGE and not name.startswith("sqlite_")
        }


def digest(rows: dict[str, list[str]]) -> str:
    """Return the hash of a store's rows."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each service's store in a folder."""
    return {path.stem: digest(rows_of(path)) for path in sorted(folder.glob("*.db"))}
