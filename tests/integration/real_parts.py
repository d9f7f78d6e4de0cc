"""What stories over whole platforms share: workers, one process a service, a person with a key."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from tests.harness import API, ServiceProcess, services
from trainwright.embedded.archive import free_ports

NAMES = ("task", "scheduler", "monitor", "result", "log", "gateway")
KEY = "a-key-of-the-tests-0123456789"


@contextmanager
def worker(env: Mapping[str, str], home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker until the end of the block."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.log").open("wb") as log:
        command = [sys.executable, "-m", "services.trainer_worker"]
        own = {"TRAINWRIGHT_WORKER_HOME": str(home)}
        with subprocess.Popen(command, env={**os.environ, **env, **own}, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                process.terminate()


@contextmanager
def one_process_each(
    names: Sequence[str], bootstrap: str, folder: Path, env: Mapping[str, str]
) -> Iterator[dict[str, ServiceProcess]]:
    """Run each service as a process of its own; the gateway finds the others by their addresses."""
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    urls = {
        f"TRAINWRIGHT_{name.upper()}_URL": f"http://127.0.0.1:{port}"
        for name, port in ports.items()
        if name != "gateway"
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                services([name], bootstrap, folder, TRAINWRIGHT_PORT=str(port), **env, **urls)
            )
            for name, port in ports.items()
        }


@asynccontextmanager
async def person(plane: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with a key."""
    bearer = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=plane.url + API, headers=bearer, timeout=90) as api:
        yield api
