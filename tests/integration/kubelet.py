"""A kubelet for tests: it runs a worker's pods as processes of this machine and tells a real API server of them.

What a container's environment says reaches the process; its image, volumes and limits are not looked at.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness import end
from tests.kubernetes_server import PODS, KubernetesServer

GRACE = 60.0
"""Seconds after which a worker that was asked to leave is killed: more than its pod's, on a busy machine."""


class Kubelet:
    """Plays the node on which all pods run, until the end of the block."""

    def __init__(self, server: KubernetesServer, folder: Path, env: Mapping[str, str]) -> None:
        self._server, self._folder, self._env = server, folder, env
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._over, self._thread = threading.Event(), threading.Thread(target=self._run, name="kubelet")
        self._lock = threading.Lock()

    def pods(self) -> dict[str, Any]:
        """Return the workers' pods that there are, by name."""
        found = self._server.ask("GET", PODS, labelSelector="app.kubernetes.io/component=worker")["items"]
        return {pod["metadata"]["name"]: pod for pod in found}

    def evict(self, name: str) -> None:
        """End a pod's container, and say that the node had no memory left."""
        with self._lock:
            end(self._processes.pop(self.pods()[name]["metadata"]["uid"]))
            self._says(name, phase="Failed", reason="Evicted", message="The node was low on resource: memory.")

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        for process in self._processes.values():
            end(process)
        for name in self.pods():
            self._forget(name)

    def _run(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                for name, pod in self.pods().items():
                    self._look_after(name, pod)

    def _look_after(self, name: str, pod: dict[str, Any]) -> None:
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
        process = self._processes.get(uid)
        if "deletionTimestamp" in pod["metadata"]:
            if process is not None:
                self._end_in_order(process)
            self._forget(name)
        elif process is None and phase == "Pending":
            self._start(name, pod)
        elif process is not None and phase == "Running" and (code := process.poll()) is not None:
            self._says(name, phase="Failed" if code else "Succeeded")

    def _start(self, name: str, pod: dict[str, Any]) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        self._server.ask("POST", f"{PODS}/{name}/binding", {"metadata": {"name": name}, "target": target})
        (container,) = pod["spec"]["containers"]
        told = {one["name"]: one["value"] for one in container["env"]}
        uid = pod["metadata"]["uid"]
        env = {**os.environ, **self._env, **told, "TRAINWRIGHT_WORKER_HOME": str(self._folder / uid)}
        command = [sys.executable, "-P", "-m", "services.trainer_worker"]
        with (self._folder / f"{name}-{uid}.log").open("wb") as log:
            self._processes[uid] = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        ready = {"name": "worker", "ready": True, "restartCount": 0, "image": "", "imageID": "", "state": {}}
        self._says(name, phase="Running", containerStatuses=[ready])

    def _end_in_order(self, process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _says(self, name: str, **status: Any) -> None:
        self._server.ask("PATCH", f"{PODS}/{name}/status", {"status": status})

    def _forget(self, name: str) -> None:
        self._server.ask("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
