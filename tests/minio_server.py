"""A MinIO for the tests: the one that is named, one in a container, or the program; the run's head says which."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.containers import has_docker, minio_container
from tests.patience import patient
from trainwright.embedded.archive import free_ports

VARIABLE = "TRAINWRIGHT_TEST_S3_URL"
PROGRAM = "TRAINWRIGHT_TEST_MINIO"
USER, PASSWORD = "tester", "tester-secret"


@dataclass(frozen=True, slots=True)
class MinioServer:
    """Where it answers, and who may ask."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """Return what a process is told that keeps its blobs there."""
        return {
            "TRAINWRIGHT_S3_URL": self.endpoint,
            "TRAINWRIGHT_S3_ACCESS_KEY": self.access_key,
            "TRAINWRIGHT_S3_SECRET_KEY": self.secret_key,
        }


def pytest_report_header() -> str:
    return f"S3: {which()}"


def which() -> str:
    """Return which server tests that need one get, in words."""
    if os.environ.get(VARIABLE):
        return f"the server that {VARIABLE} names"
    if program() is not None:
        return "MinIO, started by the tests"
    if has_docker():
        return "MinIO in a container of its own"
    return f"none, and tests that need one are skipped: `make minio` builds it, or {VARIABLE} names a server"


def program() -> str | None:
    """Return the program that can be started here."""
    built = Path(__file__).parents[1] / ".trainwright" / "bin" / "minio"
    return os.environ.get(PROGRAM) or (str(built) if built.exists() else shutil.which("minio"))


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """Give a server; tests keep apart by buckets of their own."""
    if endpoint := os.environ.get(VARIABLE):
        keys = [os.environ[f"TRAINWRIGHT_TEST_S3_{name}"] for name in ("ACCESS_KEY", "SECRET_KEY")]
        yield MinioServer(endpoint, *keys)
    elif (found := program()) is not None:
        with started(found, tmp_path_factory.mktemp("minio")) as (server, _):
            yield server
    elif has_docker():
        with minio_container(USER, PASSWORD) as endpoint:
            yield MinioServer(endpoint, USER, PASSWORD)
    else:
        pytest.skip(f"no MinIO: name a server in {VARIABLE}, or the program in {PROGRAM} (`make minio` builds it)")


@contextmanager
def started(
    program: str, folder: Path, port: int | None = None, password: str = PASSWORD
) -> Iterator[tuple[MinioServer, subprocess.Popen[bytes]]]:
    """Run a server on a folder, to the end of the block."""
    free, console = free_ports(2)
    port = port or free
    folder.mkdir(exist_ok=True)
    words = ["server", str(folder / "data"), "--address", f"127.0.0.1:{port}"]
    env = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": password, "HOME": str(folder)}
    with (folder / "log").open("ab") as log:
        command = [program, *words, "--console-address", f"127.0.0.1:{console}", "--quiet"]
        with subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
            try:
                _ready(f"http://127.0.0.1:{port}/minio/health/ready", within=60)
                yield MinioServer(f"http://127.0.0.1:{port}", USER, password), server
            finally:
                server.kill()


def _ready(url: str, within: float) -> None:
    """Wait until it says so: it listens before it answers."""
    deadline = patient(within)
    while True:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"{url} is not ready after {within} s"
        time.sleep(0.1)
