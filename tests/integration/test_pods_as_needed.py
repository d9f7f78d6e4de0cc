"""Pods come with what waits and go with it, on a real API server with real workers in what a kubelet would run.

Told as one story, because a platform and an API server take their time to start: a quota in the way, an eviction,
a provisioner that is killed, a server that is away, and none left at the end.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.faults.proxy import TcpProxy
from tests.harness import end, eventually, services
from tests.house.manifests import FOLDER
from tests.integration.kubelet import Kubelet
from tests.integration.real_parts import KEY, NAMES, person
from tests.kubernetes_server import NAMESPACE, KubernetesServer
from trainwright.embedded.archive import free_ports

HELD = """
import pathlib, sys, time
import trainwright

run = trainwright.init()
run.log(0, {"value": 0}, total_steps=1)
while not pathlib.Path(sys.argv[1]).exists() and not run.should_stop():
    time.sleep(0.05)
"""
QUOTAS = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"


@contextmanager
def provisioner(env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as output:
        command = [sys.executable, "-P", "-m", "services.provisioner"]
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=output, stderr=output)
        try:
            yield process
        finally:
            end(process)


async def test_pods_come_and_go_with_what_waits_whatever_happens_to_them(
    deployed: KubernetesServer, own_kafka: str, tmp_path: Path
) -> None:
    (tmp_path / "api-key").write_text(KEY)
    env = {
        "TRAINWRIGHT_KAFKA": own_kafka,
        "TRAINWRIGHT_BLOBS": f"dir:{tmp_path}/blobs",
        "TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"),
        "SCHEDULER_LEASE": "4",
        "TRAINWRIGHT_WORKER_HEARTBEAT_SECONDS": "0.5",
    }
    told, port = free_ports(2)
    server = int(deployed.url.rpartition(":")[2])
    with services(NAMES, own_kafka, tmp_path, **env) as plane, TcpProxy(told, server) as way:
        await plane.ready()
        kubernetes = {
            "PROVISIONER_MACHINES": "kubernetes",
            "PROVISIONER_URL": plane.url,
            "PROVISIONER_API_KEY": KEY,
            "PROVISIONER_API_SERVER": f"https://127.0.0.1:{told}",
            "PROVISIONER_ACCOUNT": str(deployed.account),
            "PROVISIONER_POD_TEMPLATE": str(FOLDER / "worker-pod.yaml"),
            "PROVISIONER_OWNER": "provisioner",
            "PROVISIONER_CLASSES": json.dumps([{"name": "cpu", "cpu": 1, "memory": "1Gi", "max": 2}]),
            "PROVISIONER_EVERY": "0.2",
            "PROVISIONER_SETTLE": "1",
            "PROVISIONER_COOL_DOWN": "2",
            "PROVISIONER_RETRY_FIRST": "0.5",
            "PROVISIONER_PORT": str(port),
        }
        with Kubelet(deployed, tmp_path, env) as node:
            async with person(plane) as api, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as hatch:
                story = Story(deployed, node, api, hatch, tmp_path)
                with provisioner(kubernetes, tmp_path / "provisioner.log"):
                    await story.a_quota_is_in_the_way()
                    await story.an_evicted_pod_is_replaced()
                with provisioner(kubernetes, tmp_path / "provisioner.log"):
                    await story.one_that_was_killed_finds_what_there_is()
                    await story.a_server_that_is_away_changes_nothing(way)
                    await story.all_ends_with_what_waited()
                log = (tmp_path / "provisioner.log").read_text()
                assert log.count("starting cpu-") - log.count("exceeded quota") == 3, log


class Story:
    def __init__(
        self,
        server: KubernetesServer,
        node: Kubelet,
        api: httpx.AsyncClient,
        hatch: httpx.AsyncClient,
        folder: Path,
    ) -> None:
        self.server, self.node, self.api, self.hatch, self.folder = server, node, api, hatch, folder
        self.tasks: list[str] = []

    async def state(self) -> dict[str, Any]:
        try:
            return dict((await self.hatch.get("/state")).json())
        except httpx.HTTPError:  # it is being started
            return {"ok": None, "notes": [], "machines": {}}

    async def says(self, words: str) -> None:
        async def it_is_said() -> bool:
            return any(words in note for note in (await self.state())["notes"])

        await eventually(it_is_said, within=30, what=f"it to say {words!r}")

    async def submit(self) -> str:
        path = self.folder / "held.py"
        path.write_text(HELD)
        parameters = {"path": str(path), "args": [str(self.folder / "go")]}
        config = {"recipe": "script", "parameters": parameters, "resource_requirements": {"cpu": 1}}
        answer = await self.api.post("/tasks", json={"config": config, "start": True})
        self.tasks.append(answer.raise_for_status().json()["task_id"])
        return self.tasks[-1]

    async def is_on(self, task_id: str, attempt: int, status: str = "running") -> None:
        async def it_is() -> bool:
            task = (await self.api.get(f"/tasks/{task_id}")).json()
            return (task["status"], task["attempt"]) == (status, attempt)

        await eventually(it_is, within=60, what=f"attempt {attempt} of {task_id} to be {status}")

    async def a_quota_is_in_the_way(self) -> None:
        none = {"hard": {"pods": "0"}}
        self.server.ask("POST", QUOTAS, {"metadata": {"name": "none"}, "spec": none})
        self.server.ask("PATCH", f"{QUOTAS}/none/status", {"status": {**none, "used": {"pods": "0"}}})
        await eventually(self.sees_nothing, within=30, what="its first look")
        first = await self.submit()
        await self.says("exceeded quota: none")
        assert self.node.pods() == {}
        self.server.ask("DELETE", f"{QUOTAS}/none")
        await self.is_on(first, 1)
        assert [*self.node.pods()] == ["trainwright-worker-cpu-1"]

    async def sees_nothing(self) -> bool:
        state = await self.state()
        return state["ok"] is True and state["machines"] == {}

    async def an_evicted_pod_is_replaced(self) -> None:
        former = self.node.pods()["trainwright-worker-cpu-1"]["metadata"]["uid"]
        self.node.evict("trainwright-worker-cpu-1")
        await self.is_on(self.tasks[0], 2)
        assert former not in {pod["metadata"]["uid"] for pod in self.node.pods().values()}

    async def one_that_was_killed_finds_what_there_is(self) -> None:
        await self.is_on(self.tasks[0], 2)
        (before,) = (pod["metadata"]["uid"] for pod in self.node.pods().values())
        await self.is_on(await self.submit(), 1)
        assert before in {pod["metadata"]["uid"] for pod in self.node.pods().values()}
        assert len(self.node.pods()) == 2

    async def a_server_that_is_away_changes_nothing(self, way: TcpProxy) -> None:
        way.refuses = True
        way.cut()
        await self.says("Kubernetes does not answer")
        await self.submit()
        way.refuses = False
        await self.says("class cpu is at its most of 2")
        assert len(self.node.pods()) == 2

    async def all_ends_with_what_waited(self) -> None:
        (self.folder / "go").touch()
        for task_id, attempt in zip(self.tasks, (2, 1, 1), strict=True):
            await self.is_on(task_id, attempt, "completed")
        await eventually(lambda: self.node.pods() == {}, within=60, what="no pod to be left")
        await eventually(self.sees_nothing, within=30, what="it to see none")
