"""The Kubernetes manifests, read as kustomize puts them together: enough of it for the rules, no more."""

from typing import Any

import yaml

from tests.house.house import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = FOLDER / "kustomization.yaml"
Manifest = dict[str, Any]


def kustomization() -> Manifest:
    """Return what is put together."""
    found: Manifest = yaml.safe_load(KUSTOMIZATION.read_text())
    return found


def manifests() -> list[Manifest]:
    """Return all objects, in their namespace, with the generated ones."""
    whole = kustomization()
    found = [one for name in whole["resources"] for one in yaml.safe_load_all((FOLDER / name).read_text())]
    for made in whole["configMapGenerator"]:
        data = {name: (FOLDER / name).read_text() for name in made["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data})
    for one in found:
        if one["kind"] != "Namespace":
            one["metadata"]["namespace"] = whole["namespace"]
    tags = {image["name"]: image["newTag"] for image in whole["images"]}
    for container in (c for one in found if one["kind"] == "Deployment" for c in pod_of(one)["containers"]):
        if container["image"] in tags:
            container["image"] += f":{tags[container['image']]}"
    return found


def pod_of(deployment: Manifest) -> Manifest:
    """Return the spec of a Deployment's pods."""
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


def worker_template() -> Manifest:
    """Return the template of workers' pods."""
    found: Manifest = yaml.safe_load((FOLDER / "worker-pod.yaml").read_text())
    return found
