"""A whole platform as its user starts it: `trainwright up`, in a home of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.faults.invariants import broken
from trainwright.embedded.archive import free_ports

CLI = Path(sys.executable).with_name("trainwright")
FINAL = ("completed", "failed", "cancelled")


@dataclass(slots=True)
class Platform:
    """A home, and the commands on it."""

    home: Path
    port: int
    separate: bool = False
    workers: int | str = 1
    env: Mapping[str, str] = field(default_factory=dict)

    def cli(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command line on this home."""
        env = {**os.environ, **self.env, "TRAINWRIGHT_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "160"}
        return subprocess.run(
            [str(CLI), *words], capture_output=True, text=True, env=env, timeout=timeout, check=False
        )

    def up(self) -> None:
        """Start it in the background."""
        words = ["up", "--port", str(self.port), "--workers", *str(self.workers).split(), "--detach"]
        done = self.cli(*words, *(["--separate"] if self.separate else []))
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stop it."""
        done = self.cli("down")
        assert done.returncode == 0, done.stdout + done.stderr

    def client(self, key: str | None = None) -> httpx.Client:
        """Return a client of the public API."""
        url = json.loads((self.home / "state.json").read_text())["url"]
        key = (self.home / "api-key").read_text().strip() if key is None else key
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=f"{url}/api/v1/training", headers=headers, timeout=90)


@contextmanager
def platform(home: Path, *, separate: bool = False, workers: int | str = 1, **env: str) -> Iterator[Platform]:
    """Have a platform until the end of the block; settings of its services and workers by their variables.

    At the end every promise has to hold, whatever the block did (tests/faults/invariants.py).
    """
    found = Platform(home, _six_free_ports(), separate, workers, env)
    try:
        found.up()
        yield found
        wrong = broken(home)
        assert wrong == [], "\n".join(wrong)
    finally:
        found.cli("down")


def submit(api: httpx.Client, config: dict[str, Any]) -> str:
    """Create and start a task; return its id."""
    answer = api.post("/tasks", json={"config": config, "start": True})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["task_id"])


def script(path: Path, source: str, *args: str) -> dict[str, Any]:
    """Write a script; return the document that runs it."""
    path.write_text(source)
    return {"recipe": "script", "name": path.stem, "parameters": {"path": str(path), "args": list(args)}}


def _six_free_ports() -> int:
    """Return the first of six free ports in a row: a gateway's, and the services' after it."""
    for port in free_ports(50):
        try:
            with _held(range(port, port + 6)):
                return port
        except OSError:
            continue
    raise AssertionError("no six free ports in a row")


@contextmanager
def _held(ports: range) -> Iterator[None]:
    """Hold ports for a moment, to see that they are free."""
    held = []
    try:
        for port in ports:
            held.append(socket.create_server(("127.0.0.1", port)))
        yield
    finally:
        for one in held:
            one.close()


def administer(api: httpx.Client, *, queued: str, over: str) -> None:
    """Do what people do beside running tasks: it is all said."""
    api.patch(f"/tasks/{queued}", json={"priority": 7}).raise_for_status()
    api.post(f"/tasks/{over}/archive").raise_for_status()
    document = {"recipe": "script", "parameters": {"path": "x.py"}}
    made = api.post("/configs", json={"name": "kept", "config": document}).raise_for_status().json()
    where = f"/configs/{made['config_id']}"
    api.patch(where, json={"changes": {"priority": 1}}).raise_for_status()
    api.delete(where).raise_for_status()
    api.put("/resources/quotas/vision", json={"cpu_percent": 90}).raise_for_status()
    api.post("/resources/reservations", json={"cpu": 0.5, "duration": 60, "strategy": "vision"}).raise_for_status()
