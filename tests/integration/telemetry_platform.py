"""A platform in three processes that is watched: services, the gateway before them, a worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.harness import TOKEN, ServiceProcess, services
from tests.trace_collector import until
from trainwright.embedded.archive import free_ports

KEY = "a-key-of-the-tests-0123456789"
SECRET = "what-only-the-payload-says"
SCRIPT = f"""
import os, trainwright
run = trainwright.init()
print("{SECRET}")
print("TRACEPARENT", os.environ.get("TRACEPARENT"))
for step in range(5):
    run.log(step, {{"loss": 1 / (step + 1)}})
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """Where its processes answer."""

    plane: ServiceProcess
    gateway: ServiceProcess
    worker_url: str
    worker: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def urls(self) -> dict[str, str]:
        """Return where each process has its figures."""
        return {"plane": self.plane.url, "gateway": self.gateway.url, "worker": self.worker_url}

    def api(self) -> httpx.Client:
        """Return a client of the public API."""
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=f"{self.gateway.url}/api/v1/training", headers=headers, timeout=90)

    def train(self, script: str = SCRIPT) -> str:
        """Create a task with a start; return it once it is completed."""
        path = self.folder / "script.py"
        path.write_text(script)
        config = {"recipe": "script", "name": SECRET, "parameters": {"path": str(path)}}
        with self.api() as api:
            created = api.post("/tasks", json={"config": config, "start": True})
            assert created.status_code == 201, created.text
            task_id: str = created.json()["task_id"]
            assert until(lambda: api.get(f"/tasks/{task_id}").json()["status"] == "completed", within=90)
        return task_id


@contextmanager
def watched(bootstrap: str, folder: Path, **env: str) -> Iterator[Watched]:
    """Run the platform until the end of the block."""
    (folder / "api-key").write_text(KEY)
    (worker_port,) = free_ports(1)
    names = ("scheduler", "monitor", "result", "log", "task")
    with services(names, bootstrap, folder, **env) as plane:
        (folder / "edge").mkdir()
        ways = {f"TRAINWRIGHT_{name.upper()}_URL": plane.url for name in names}
        keys = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(folder / "api-key")}
        with services(("gateway",), bootstrap, folder / "edge", **ways, **keys, **env) as gateway:
            settings = {
                "TRAINWRIGHT_KAFKA": bootstrap,
                "TRAINWRIGHT_BLOBS": f"dir:{folder}/blobs",
                "TRAINWRIGHT_WORKER_HOME": str(folder / "worker"),
                "TRAINWRIGHT_WORKER_PORT": str(worker_port),
                **env,
            }
            with (folder / "worker.log").open("wb") as log:
                command = [sys.executable, "-m", "services.trainer_worker"]
                with subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log) as worker:
                    try:
                        yield Watched(plane, gateway, f"http://127.0.0.1:{worker_port}", worker, folder)
                    finally:
                        worker.terminate()


@contextmanager
def provisioner(platform: Watched) -> Iterator[str]:
    """Run a provisioner that may start no machine until the end of the block; return its address."""
    (port,) = free_ports(1)
    settings = {
        "PROVISIONER_URL": platform.gateway.url,
        "PROVISIONER_API_KEY": KEY,
        "PROVISIONER_CLASSES": '[{"name": "worker", "cpu": 1, "memory": "1Gi", "max": 0}]',
        "PROVISIONER_HOME": str(platform.folder / "provisioner"),
        "PROVISIONER_PORT": str(port),
    }
    command = [sys.executable, "-m", "services.provisioner"]
    with subprocess.Popen(command, env={**os.environ, **settings}) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            assert until(lambda: answers(url, "/health/live"), within=60)
            yield url
        finally:
            process.terminate()


def answers(url: str, path: str) -> httpx.Response | None:
    """Return what a process says, or None while it does not listen."""
    try:
        return httpx.get(f"{url}{path}", timeout=90)
    except httpx.TransportError:
        return None


__all__ = ["KEY", "SECRET", "TOKEN", "Watched", "answers", "provisioner", "watched"]
