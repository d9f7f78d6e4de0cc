"""The Kubernetes manifests: valid by the API's own schemas, closed, and in keeping with code and images."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from services.provisioner.machines.pods import Template
from services.provisioner.settings import ProvisionerSettings, WorkerClass
from services.trainer_worker.service import END_SECONDS, LAST_SPANS, LEAVE_SECONDS
from tests.house.dockerfile import stages
from tests.house.manifests import FOLDER, Manifest, kustomization, manifests, pod_of, worker_template
from tests.house.test_compose import known

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "kubernetes.json").read_text())
CLASS = WorkerClass(name="gpu", cpu=8, memory="64Gi", gpu=1)
SERVICES = {"task", "scheduler", "monitor", "result", "log", "gateway"}
ROUTES = {"/health/live", "/health/ready"}


def wrong(document: Manifest) -> list[str]:
    """Return what the schema of its kind says against an object."""
    validator = jsonschema.Draft202012Validator({**SCHEMA, **SCHEMA["kinds"][document["kind"]]})
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(document)]


def worker_pod() -> Manifest:
    """Return the pod of a worker as the provisioner makes it."""
    return Template(worker_template()).pod(
        "gpu-1", CLASS, {"apiVersion": "apps/v1", "kind": "x", "name": "x", "uid": "x"}
    )


def of(kind: str) -> dict[str, Manifest]:
    """Return the objects of a kind by name."""
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def pods() -> dict[str, Manifest]:
    """Return the specs of all pods by whose they are."""
    return {name: pod_of(one) for name, one in of("Deployment").items()} | {"worker": worker_pod()["spec"]}


def open_doors(pod: Manifest) -> Iterator[str]:
    """Say in what a pod is less bounded than it should be."""
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) < 1:
        yield "it may run as root"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    if pod.get("automountServiceAccountToken") is not False and "serviceAccountName" not in pod:
        yield "it holds a token of Kubernetes that it does not use"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own.get("readOnlyRootFilesystem") is not True:
            yield "its file system can be written"
        if own.get("capabilities") != {"drop": ["ALL"]} or own.get("allowPrivilegeEscalation") is not False:
            yield "it has, or may gain, rights"
        if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
            yield "no limits"
        if "livenessProbe" not in container:
            yield "nobody looks whether it lives"


def test_every_object_is_valid() -> None:
    assert {one["metadata"]["name"]: wrong(one) for one in [*manifests(), worker_pod()] if wrong(one)} == {}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "replica"), 2, "replica"),
        (("spec", "replicas"), "two", "'two' is not of type 'integer'"),
        (("apiVersion",), "apps/v1beta1", "'apps/v1' was expected"),
    ],
    ids=["unknown field", "wrong type", "wrong version"],
)
def test_the_schemas_see_mistakes(path: tuple[str, ...], value: Any, said: str) -> None:
    document = copy.deepcopy(of("Deployment")["task"])
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(said in found for found in wrong(document))


def test_every_pod_is_bounded_and_watched() -> None:
    assert {name: found for name, pod in pods().items() if (found := [*open_doors(pod)])} == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"securityContext": {}}, "it may run as root"),
        ({"automountServiceAccountToken": True}, "it holds a token of Kubernetes that it does not use"),
        ({"containers": [{"name": "x"}]}, "no limits"),
    ],
    ids=["root", "token", "limits"],
)
def test_the_rules_see_what_they_forbid(change: Manifest, said: str) -> None:
    assert said in [*open_doors(pods()["task"] | change)]


def test_every_variable_of_a_process_is_one_that_it_reads() -> None:
    maps, unknown = of("ConfigMap"), []
    for name, pod in pods().items():
        (container,) = pod["containers"]
        given = {one["name"] for one in container.get("env", [])}
        for source in container["envFrom"]:
            given |= maps[source["configMapRef"]["name"]]["data"].keys()
        (secret,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
        given |= {item["path"] for item in secret["items"]} - {"api_key"}
        command = container.get("command", ["services.trainer_worker"])
        unknown += [f"{name}: {variable}" for variable in given - known(command)]
    assert unknown == []


def test_images_are_targets_of_the_dockerfile_and_ports_are_listened_on() -> None:
    targets = {stage.name for stage in stages()}
    for name, pod in pods().items():
        (container,) = pod["containers"]
        image, _, tag = container["image"].rpartition(":")
        assert image.removeprefix("trainwright/") in targets
        assert tag not in ("", "latest")
        assert [port["containerPort"] for port in container["ports"]] == [8700]
        probes = [probe for key, probe in container.items() if key.endswith("Probe")]
        assert {probe["httpGet"]["path"] for probe in probes} <= ROUTES, name


def test_what_refers_to_something_finds_it() -> None:
    deployments, services = of("Deployment"), of("Service")
    assert set(deployments) == {*SERVICES, "provisioner"}
    assert set(services) == set(of("PodDisruptionBudget")) == SERVICES
    for name in SERVICES:
        labels = deployments[name]["spec"]["template"]["metadata"]["labels"]
        assert deployments[name]["spec"]["selector"]["matchLabels"] == services[name]["spec"]["selector"] == labels
        assert of("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == labels
        assert deployments[name]["spec"]["replicas"] == 2
    assert of("ConfigMap")["trainwright"]["data"]["TRAINWRIGHT_STATIC_MEMBERS"] == "false"
    volumes = [volume for pod in pods().values() for volume in pod["volumes"]]
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert maps <= set(of("ConfigMap"))
    assert {volume["secret"]["secretName"] for volume in volumes if "secret" in volume} == {"trainwright"}
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        "kustomization.yaml",
        "worker-pod.yaml",
        *kustomization()["resources"],
    }


def test_secrets_are_named_in_the_guide() -> None:
    guide = (FOLDER.parents[1] / "docs" / "deployment.md").read_text()
    volumes = [volume for pod in pods().values() for volume in pod["volumes"] if "secret" in volume]
    keys = {item["key"] for volume in volumes for item in volume["secret"]["items"]}
    assert {key for key in keys if not re.search(rf"deploy/secrets/{key}\b|--from-file={key}\b", guide)} == set()


def test_the_provisioner_may_do_to_pods_what_it_needs_and_nothing_else() -> None:
    assert not of("ClusterRole")
    rules = of("Role")["provisioner"]["rules"]
    assert rules[0] == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "create", "delete"]}
    assert [(rule["resources"], rule["resourceNames"], rule["verbs"]) for rule in rules[1:]] == [
        (["deployments"], ["provisioner"], ["get"])
    ]


def test_the_provisioners_classes_are_ones_that_it_takes() -> None:
    data = of("ConfigMap")["provisioner"]["data"]
    read = {name.removeprefix("PROVISIONER_").lower(): value for name, value in data.items()}
    settings = ProvisionerSettings.model_validate({**read, "classes": json.loads(read["classes"])})
    assert [one.name for one in settings.classes] == ["cpu", "gpu"]


def test_a_worker_is_given_the_time_that_its_end_takes() -> None:
    grace = worker_template()["spec"]["terminationGracePeriodSeconds"]
    assert grace > END_SECONDS + LEAVE_SECONDS + LAST_SPANS
