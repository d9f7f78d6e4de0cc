"""What a client leaves on a MongoDB that is killed in a transaction: nothing. On the stand-in: half a transaction.

Told with the driver alone, nothing of ours runs here. The stand-in has one connection to SQLite. On it the dead
client's transaction stays open: everybody sees what it had written and takes the rest for done, and what anybody
writes later belongs to it. So kills on the stand-in prove something only when it is killed with its client, which
is what the campaign does (tests/faults/mortal_mongo.py).
"""

import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from pymongo import MongoClient

from tests.mongo_server import MongoServer, has_stand_in, stand_in

IS_KILLED = """
import os, signal, sys
from pymongo import MongoClient

database = MongoClient(sys.argv[1])[sys.argv[2]]
session = database.client.start_session()
session.start_transaction()
database.marks.insert_one({"_id": "seen"}, session=session)
os.kill(os.getpid(), signal.SIGKILL)  # before it has written what follows from the mark
"""


def leave_a_mark(url: str) -> str:
    """Be killed in a transaction that has written its mark and nothing else; return the database."""
    name = f"test_{uuid4().hex[:12]}"
    with MongoClient[dict[str, str]](url) as client:
        for collection in ("marks", "others"):
            client[name].create_collection(collection)
    done = subprocess.run([sys.executable, "-c", IS_KILLED, url, name], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    return name


def seen(url: str, name: str) -> dict[str, int]:
    """Return how many documents somebody else sees, by collection."""
    with MongoClient[dict[str, str]](url) as client:
        return {collection: len(list(client[name][collection].find())) for collection in ("marks", "others")}


def write_another(url: str, name: str) -> None:
    """Write something that has nothing to do with any of it; that is acknowledged."""
    with MongoClient[dict[str, str]](url) as client:
        assert client[name].others.insert_one({"_id": uuid4().hex}).acknowledged


def test_nobody_sees_what_a_killed_client_had_not_committed(isolating_mongo: MongoServer) -> None:
    url = isolating_mongo.url
    name = leave_a_mark(url)
    assert seen(url, name) == {"marks": 0, "others": 0}
    write_another(url, name)
    assert seen(url, name) == {"marks": 0, "others": 1}


@pytest.mark.skipif(not has_stand_in(), reason="nx-27017 is not installed")
def test_the_stand_in_shows_it_to_all_and_forgets_it_only_when_it_is_killed_itself(tmp_path: Path) -> None:
    """If this fails it has become better, and campaigns need not kill it any more."""
    with stand_in(tmp_path) as server:
        name = leave_a_mark(server.url)
        assert seen(server.url, name) == {"marks": 1, "others": 0}
        write_another(server.url, name)
        server.kill()
    with stand_in(tmp_path) as server:
        assert seen(server.url, name) == {"marks": 0, "others": 0}, "with all that was acknowledged meanwhile"
        write_another(server.url, name)
        server.kill()
    with stand_in(tmp_path) as server:
        assert seen(server.url, name) == {"marks": 0, "others": 1}, "what was acknowledged is kept"
