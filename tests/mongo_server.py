"""A MongoDB for the tests: the one that is named, one in a container, or the stand-in that speaks its protocol.

Which of them is used is said at the head of the test run. The stand-in isolates transactions weakly: tests that
need the real thing ask for the fixture `isolating_mongo` and are skipped on it.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import has_docker, mongo_container
from tests.harness import reachable
from trainwright.embedded.archive import free_ports

VARIABLE = "TRAINWRIGHT_TEST_MONGODB_URL"
STAND_IN = "the stand-in nx-27017"


@dataclass(frozen=True, slots=True)
class MongoServer:
    """Where it answers, and whether its transactions isolate."""

    url: str
    what: str
    isolates: bool = True
    process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End the stand-in at once, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def pytest_report_header() -> str:
    return f"MongoDB: {which()}"


def which() -> str:
    """Return which server tests that need one get, in words."""
    if os.environ.get(VARIABLE):
        return f"the server that {VARIABLE} names"
    if has_docker():
        return "a container of its own"
    if has_stand_in():
        return f"{STAND_IN} (no Docker here, and {VARIABLE} names no server)"
    return "none; tests that need one are skipped"


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """Give a server; tests keep apart by databases of their own."""
    if url := os.environ.get(VARIABLE):
        yield MongoServer(url, which())
    elif has_docker():
        with mongo_container() as url:
            yield MongoServer(url, which())
    else:
        if not has_stand_in():
            pytest.skip("no MongoDB: neither a server is named nor is nx-27017 installed")
        with stand_in(tmp_path_factory.mktemp("mongo")) as server:
            yield server


@pytest.fixture
def isolating_mongo(mongo: MongoServer) -> MongoServer:
    """Give a server whose transactions isolate."""
    if not mongo.isolates:
        pytest.skip(f"{mongo.what} does not isolate transactions; name a real one in {VARIABLE}")
    return mongo


def has_stand_in() -> bool:
    """Return whether the stand-in is installed."""
    return importlib.util.find_spec("nx_27017") is not None


@contextmanager
def stand_in(folder: Path, port: int | None = None) -> Iterator[MongoServer]:
    """Run the stand-in on a folder, to the end of the block."""
    port = port or free_ports(1)[0]
    folder.mkdir(exist_ok=True)
    log = folder / "nx.log"
    words = ["--data-dir", str(folder / "data"), "--host", "127.0.0.1", "-p", str(port)]
    command = [shutil.which("nx-27017", path=str(Path(sys.executable).parent)) or "nx-27017", *words]
    quiet = subprocess.DEVNULL
    command += ["--log-file", str(log), "--pid-file", str(folder / "pid")]
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            reachable("127.0.0.1", port, within=20)
            yield MongoServer(f"mongodb://127.0.0.1:{port}", STAND_IN, isolates=False, process=server)
        finally:
            server.terminate()
