"""Machines that are pods, against a real API server. There is no kubelet: the tests write what one would.

The provisioner asks with the rights that `deploy/kubernetes` gives it, and its own template.
"""

import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.provisioner.domain import MachineState
from services.provisioner.machines import MachineError
from services.provisioner.machines.kubernetes import KubernetesMachines
from services.provisioner.machines.pods import GONE_WITHIN, Template, state_of
from services.provisioner.settings import ProvisionerSettings, WorkerClass
from tests.contract.machines_port import MachinesContract, states
from tests.house.manifests import FOLDER
from tests.kubernetes_server import NAMESPACE, PODS, KubernetesServer

WORKER = WorkerClass(name="worker", cpu=2, memory="4Gi", gpu=1, max=4, node_selector={"zone": "a"})


class KubernetesPlace:
    def __init__(self, server: KubernetesServer) -> None:
        self.server = server
        template = Template.read(FOLDER / "worker-pod.yaml")
        self.machines = KubernetesMachines(server.url, server.account, template, [WORKER], owner="provisioner")

    def path(self, name: str) -> str:
        return f"{PODS}/trainwright-worker-{name}"

    def pod(self, name: str) -> Any:
        return self.server.ask("GET", self.path(name))

    def status(self, name: str, **status: Any) -> None:
        """Write what a kubelet would."""
        self.server.ask("PATCH", f"{self.path(name)}/status", {"status": status})

    async def bring_up(self, name: str) -> None:
        self._schedule(name)
        ready = [{"name": "worker", "ready": True, "restartCount": 0, "image": "", "imageID": "", "state": {}}]
        self.status(name, phase="Running", containerStatuses=ready)

    def _schedule(self, name: str) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-1"}
        binding = {"metadata": {"name": f"trainwright-worker-{name}"}, "target": target}
        self.server.ask("POST", f"{self.path(name)}/binding", binding)

    async def take_down(self, name: str) -> None:
        if f"trainwright-worker-{name}" in self.names():
            self.server.ask("DELETE", self.path(name), {"gracePeriodSeconds": 0})

    def names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.server.ask("GET", PODS)["items"]]


@pytest.fixture
async def place(deployed: KubernetesServer) -> AsyncIterator[KubernetesPlace]:
    found = KubernetesPlace(deployed)
    yield found
    await found.machines.close()
    for name in found.names():
        deployed.ask("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})


class TestKubernetesMachines(MachinesContract):
    async def test_a_pod_has_what_its_class_says_and_belongs_to_the_provisioner(
        self, place: KubernetesPlace
    ) -> None:
        await place.machines.start("worker-1", "worker")
        pod = place.pod("worker-1")
        (container,) = pod["spec"]["containers"]
        wanted = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
        given = container["resources"]
        assert given["limits"] == given["requests"]
        assert (given["limits"]["cpu"], given["limits"]["nvidia.com/gpu"]) == (wanted["cpu"], "1")
        assert int(given["limits"]["memory"].rstrip("Gi")) in (4, 4 * 2**30)
        assert pod["spec"]["nodeSelector"] == {"zone": "a"}
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Deployment", "provisioner")
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert env["TRAINWRIGHT_WORKER_LABELS"] == '{"machine": "worker-1", "class": "worker"}'

    @pytest.mark.parametrize(
        ("status", "state", "reason"),
        [
            (
                {
                    "phase": "Pending",
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "0/3 nodes have a GPU",
                        }
                    ],
                },
                MachineState.STARTING,
                "Unschedulable: 0/3 nodes have a GPU",
            ),
            (
                {"phase": "Failed", "reason": "Evicted", "message": "low memory"},
                MachineState.OVER,
                "Evicted: low memory",
            ),
            ({"phase": "Succeeded"}, MachineState.OVER, ""),
        ],
        ids=["unschedulable", "evicted", "left"],
    )
    async def test_why_a_pod_is_no_worker_is_told_in_kubernetes_own_words(
        self, place: KubernetesPlace, status: dict[str, Any], state: MachineState, reason: str
    ) -> None:
        await place.machines.start("worker-1", "worker")
        place.status("worker-1", **status)
        (found,) = await place.machines.find()
        assert (found.state, found.reason) == (state, reason)

    async def test_a_pod_that_was_to_be_gone_long_ago_is_lost(self, place: KubernetesPlace) -> None:
        await place.machines.start("worker-1", "worker")
        await place.bring_up("worker-1")
        await place.machines.stop("worker-1")
        pod = place.pod("worker-1")
        ends = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"])
        assert state_of(pod, ends + GONE_WITHIN)[0] is MachineState.ENDING
        later = ends + GONE_WITHIN + timedelta(seconds=1)
        assert state_of(pod, later) == (MachineState.LOST, "its node does not say that it has ended")

    async def test_an_image_that_cannot_be_had_is_told(self, place: KubernetesPlace) -> None:
        await place.machines.start("worker-1", "worker")
        place._schedule("worker-1")
        waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
        entry = {"name": "worker", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": waiting}
        place.status("worker-1", phase="Pending", containerStatuses=[entry])
        (found,) = await place.machines.find()
        assert (found.state, found.reason) == (MachineState.STARTING, "ImagePullBackOff: not found")

    async def test_pods_of_others_are_not_seen(self, place: KubernetesPlace) -> None:
        container = {"name": "x", "image": "x"}
        place.server.ask("POST", PODS, {"metadata": {"name": "stranger"}, "spec": {"containers": [container]}})
        assert await states(place) == {}

    async def test_it_may_do_nothing_but_what_it_needs(self, place: KubernetesPlace) -> None:
        for method, path in itertools.product(["GET"], ["secrets", "configmaps", "services"]):
            with pytest.raises(MachineError, match=r"refuses GET .* \(403\)"):
                await place.machines._ask(method, f"/api/v1/namespaces/{NAMESPACE}/{path}")
        with pytest.raises(MachineError, match=r"\(403\)"):
            await place.machines._ask("GET", "/api/v1/namespaces/default/pods")

    async def test_a_refusal_is_told_in_its_words(self, place: KubernetesPlace, tmp_path: Path) -> None:
        quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}}
        path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
        place.server.ask("POST", path, quota)
        place.server.ask("PATCH", f"{path}/few/status", {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}})
        try:
            with pytest.raises(MachineError, match="exceeded quota: few"):
                await place.machines.start("worker-1", "worker")
        finally:
            place.server.ask("DELETE", f"{path}/few")


async def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    (tmp_path / "namespace").write_text("x")
    template = Template({"spec": {"containers": [{"name": "worker"}]}})
    machines = KubernetesMachines("http://127.0.0.1:9", tmp_path, template, [WORKER])
    with pytest.raises(MachineError, match="does not answer GET"):
        await machines.find()
    await machines.close()


def test_settings_that_do_not_fit_are_refused_with_the_fix(tmp_path: Path) -> None:
    bad = tmp_path / "pod.yaml"
    bad.write_text("spec: {containers: [{name: main}]}")
    one = ({"name": "cpu", "cpu": 1, "memory": "1Gi"},)
    for given, said in [
        ({}, "PROVISIONER_POD_TEMPLATE names no file"),
        ({"pod_template": bad}, "PROVISIONER_CLASSES is empty"),
        ({"pod_template": tmp_path / "none.yaml", "classes": one}, "cannot be read"),
        ({"pod_template": bad, "classes": one}, "has no container 'worker'"),
        (
            {"pod_template": FOLDER / "worker-pod.yaml", "classes": one, "account": tmp_path},
            "namespace cannot be read",
        ),
    ]:
        with pytest.raises(MachineError, match=said):
            KubernetesMachines.of(ProvisionerSettings.model_validate(given))
