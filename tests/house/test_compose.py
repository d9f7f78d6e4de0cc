"""The Compose files: valid by the specification's schema, and as bounded as they say. Without Docker."""

import copy
import importlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic_settings import BaseSettings

from deploy.setup import SetupSettings
from tests.house import compose
from tests.house.dockerfile import DOCKERFILE, instructions, stages
from tests.house.house import ROOT
from trainwright.embedded.distribution import KAFKA_VERSION
from trainwright.embedded.kafka import _PROPERTIES
from trainwright.runtime.settings import RuntimeSettings

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text())
TOGETHER = [[compose.BASE], *([compose.BASE, overlay] for overlay in compose.OVERLAYS)]
NAMES = ["base", *(overlay.name for overlay in compose.OVERLAYS)]
merges = pytest.mark.parametrize("paths", TOGETHER, ids=NAMES)

Service = dict[str, Any]

WITHOUT_HEALTH = {
    "setup": "it ends",
    "otel-collector": "its image holds nothing that could ask; Prometheus does",
    "jaeger": "the same; nobody waits for it",
}
MAY_START_BEFORE = {("setup", "mongodb"): "it makes the replica set, without which MongoDB is not healthy"}
FOREIGN = {
    "kafka": r"KAFKA_[A-Z_]+",
    "mongodb": r"MONGO_INITDB_ROOT_(USERNAME|PASSWORD_FILE)",
    "minio": r"MINIO_(ROOT_USER|ROOT_PASSWORD_FILE|BROWSER|UPDATE)",
    "grafana": r"GF_[A-Z]+_[A-Z_]+",
}
"""Variables of images that are not ours."""
ANY = {"TMPDIR", "NVIDIA_DRIVER_CAPABILITIES"}
ELSEWHERE = {
    "node.id",
    "process.roles",
    "listeners",
    "advertised.listeners",
    "log.dirs",
    "controller.quorum.voters",
}
TUNED = {
    "log.index.size.max.bytes",
    "metadata.max.idle.interval.ms",
    "metadata.log.segment.bytes",
    "metadata.max.retention.bytes",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.buffer.size",
    "num.network.threads",
    "num.io.threads",
    "background.threads",
    "num.recovery.threads.per.data.dir",
}
"""What makes a laptop's Kafka small; a server's has its defaults."""


def whole(paths: list[Path]) -> dict[str, Any]:
    """Return files merged, as they are when nothing is set."""
    return compose.merged(paths, {})


def bounded(name: str, service: Service) -> Iterator[str]:
    """Say in what a service is less bounded than it should be."""
    limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
    options = service.get("logging", {}).get("options", {})
    if missing := {"cpus", "memory", "pids"} - set(limits):
        yield f"no limit of {sorted(missing)}"
    if not {"max-size", "max-file"} <= set(options):
        yield "its log is not rotated"
    if service.get("read_only") is not True:
        yield "its file system can be written"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add") or service.get("privileged"):
        yield "it has capabilities"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "it may gain privileges"
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(service.get("user", ""))):
        yield "it may run as root"
    if service.get("network_mode") or not service.get("networks"):
        yield "it names no networks"


def alive(name: str, service: Service) -> Iterator[str]:
    """Say what keeps Compose from knowing how a service is, and from starting it in order."""
    if service.get("restart") not in ("unless-stopped", "on-failure"):
        yield "it is not started again"
    health = service.get("healthcheck", {})
    if name not in WITHOUT_HEALTH and (not health.get("test") or health.get("disable")):
        yield "it has no health check"
    needed = service.get("depends_on", {})
    if not isinstance(needed, dict):
        yield "depends_on without conditions"
        return
    for other, how in needed.items():
        wanted = "service_completed_successfully" if other == "setup" else "service_healthy"
        if how["condition"] != wanted and (name, other) not in MAY_START_BEFORE:
            yield f"it does not wait until {other} is ready"


def pinned(name: str, service: Service) -> Iterator[str]:
    """Say what may change under a service."""
    _, colon, tag = service.get("image", "").rpartition("/")[2].partition(":")
    if not colon or not tag or tag == "latest":
        yield "its image has no fixed tag"
    if (build := service.get("build")) and build.get("target") not in {stage.name for stage in stages()}:
        yield f"the Dockerfile has no target {build.get('target')}"


def closed(name: str, service: Service) -> Iterator[str]:
    """Say what strangers could reach or read."""
    for port in service.get("ports", []):
        if not (isinstance(port, str) and port.startswith("127.0.0.1:")):
            yield f"it publishes {port} to everybody"
    for variable, value in service.get("environment", {}).items():
        if re.search(r"(PASSWORD|SECRET_KEY|TOKEN|KEYFILE)$", variable):
            yield f"{variable} stands in the environment: {value[:3]}…"


RULES: tuple[Callable[[str, Service], Iterator[str]], ...] = (bounded, alive, pinned, closed)


@merges
def test_the_files_are_valid_alone_and_merged(paths: list[Path]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for found in (compose.load(paths[-1], {}), whole(paths), compose.merged(paths, compose.example())):
        assert [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(found)] == []


@merges
def test_every_service_is_bounded_watched_pinned_and_closed(paths: list[Path]) -> None:
    services = whole(paths)["services"]
    assert [f"{n}: {said}" for rule in RULES for n, s in services.items() for said in rule(n, s)] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deploy": {"resources": {"limits": {"cpus": "1"}}}}, "no limit of ['memory', 'pids']"),
        ({"user": "0:0"}, "it may run as root"),
        ({"read_only": False}, "its file system can be written"),
        ({"cap_add": ["SYS_ADMIN"]}, "it has capabilities"),
        ({"security_opt": []}, "it may gain privileges"),
        ({"logging": {}}, "its log is not rotated"),
        ({"healthcheck": {"disable": True}}, "it has no health check"),
        ({"restart": "no"}, "it is not started again"),
        ({"depends_on": {"kafka": {"condition": "service_started"}}}, "it does not wait until kafka is ready"),
        ({"image": "mongo"}, "its image has no fixed tag"),
        ({"image": "somewhere:5000/mongo:latest"}, "its image has no fixed tag"),
        ({"build": {"target": "contrl"}}, "the Dockerfile has no target contrl"),
        ({"ports": ["8700:8700"]}, "it publishes 8700:8700 to everybody"),
        (
            {"environment": {"TRAINWRIGHT_S3_SECRET_KEY": "hush"}},
            "TRAINWRIGHT_S3_SECRET_KEY stands in the environ",
        ),
    ],
)
def test_the_rules_see_what_they_forbid(change: Service, said: str) -> None:
    service = copy.deepcopy(whole([compose.BASE])["services"]["gateway"]) | change
    complaints = [found for rule in RULES for found in rule("gateway", service)]
    assert [found for found in complaints if found.startswith(said)] == complaints != []


@merges
def test_every_variable_is_explained_with_the_default_that_it_has(paths: list[Path]) -> None:
    text, example = paths[-1].read_text(), compose.example()
    assert compose.variables(text) - set(example) == set()
    assert {name: {example[name]} for name in compose.defaults(text)} == compose.defaults(text)


def test_the_example_explains_nothing_that_nobody_asks_for() -> None:
    asked = {name for path in (compose.BASE, *compose.OVERLAYS) for name in compose.variables(path.read_text())}
    assert set(compose.example()) == asked


def known(command: list[str]) -> set[str]:
    """Return the variables that a program of ours reads."""
    module = command[-1]
    classes: list[type[BaseSettings]] = [RuntimeSettings]
    if module.endswith("setup.py"):
        classes.append(SetupSettings)
    elif (ROOT / module.replace(".", "/") / "settings.py").exists():
        there = vars(importlib.import_module(f"{module}.settings")).values()
        classes += [c for c in there if isinstance(c, type) and issubclass(c, BaseSettings)]
    names = set()
    for kind in classes:
        for field, about in kind.model_fields.items():
            names.add(f"{kind.model_config.get('env_prefix', '')}{field}".upper())
            names |= {str(choice) for choice in getattr(about.validation_alias, "choices", [])}
    return names


def is_ours(service: Service) -> bool:
    """Return whether a service runs a program of this project."""
    return str(service.get("command", "")).startswith("['python'")


@merges
def test_every_variable_of_a_process_is_one_that_it_reads(paths: list[Path]) -> None:
    unknown = []
    for name, service in whole(paths)["services"].items():
        given = set(service.get("environment", {})) - ANY
        targets = {s["target"] for s in service.get("secrets", []) if isinstance(s, dict)}
        if is_ours(service) or name.startswith("worker"):
            command = service.get("command") or ["services.trainer_worker"]
            unknown += [f"{name}: {variable}" for variable in (given | targets) - known(command)]
        else:
            pattern = FOREIGN.get(name, "(?!)")
            unknown += [f"{name}: {variable}" for variable in given if not re.fullmatch(pattern, variable)]
    assert unknown == []


@merges
def test_secrets_volumes_and_networks_are_declared_and_used(paths: list[Path]) -> None:
    found = whole(paths)
    services = found["services"].values()
    sources = {s["source"] if isinstance(s, dict) else s for one in services for s in one.get("secrets", [])}
    networks = {network for one in services for network in one["networks"]}
    volumes = {v.partition(":")[0] for one in services for v in one.get("volumes", []) if v[0] not in "./"}
    assert (sources, networks, volumes) == (set(found["secrets"]), set(found["networks"]), set(found["volumes"]))


def test_the_script_makes_every_secret_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    declared = {name: secret["file"] for paths in TOGETHER for name, secret in whole(paths)["secrets"].items()}
    assert set(declared.values()) == {f"./deploy/secrets/{name}" for name in declared}
    for _ in range(2):
        done = subprocess.run(
            ["sh", "deploy/secrets.sh", folder], cwd=ROOT, capture_output=True, text=True, check=True
        )
    assert done.stdout == "", "a second run changes nothing"
    assert {path.name for path in folder.iterdir()} == set(declared)
    assert folder.stat().st_mode & 0o777 == 0o700
    contents = [path.read_text() for path in folder.iterdir()]
    assert len(set(contents)) == len(contents)
    assert all(len(content) >= 40 for content in contents)


def test_workers_see_neither_the_store_nor_the_services() -> None:
    services = whole([compose.BASE])["services"]
    workers = services["worker"]
    assert [secret["source"] for secret in workers["secrets"]] == ["worker_s3_secret_key"]
    assert "control" not in workers["networks"]
    assert {name for name, service in services.items() if "bus" not in service["networks"]} == {"mongodb"}
    assert [name for name, service in services.items() if service.get("ports")] == ["gateway"]


def test_replicas_are_no_static_members_and_share_no_port() -> None:
    services = whole([compose.BASE, ROOT / "deploy" / "compose.replicas.yml"])["services"]
    twice = {name for name, service in services.items() if service["deploy"].get("replicas") == 2}
    assert twice == {"gateway", "task", "scheduler", "monitor", "result", "log"}
    assert {services[name]["environment"]["TRAINWRIGHT_STATIC_MEMBERS"] for name in twice} == {"false"}
    assert services["gateway"]["ports"] == ["127.0.0.1:8700-8701:8700"]
    for name in twice - {"gateway"}:
        urls = services["gateway"]["environment"][f"TRAINWRIGHT_{name.upper()}_URL"]
        assert urls == f"http://trainwright-{name}-1:8700,http://trainwright-{name}-2:8700"


def test_kafka_is_the_projects_and_set_as_the_embedded_one() -> None:
    kafka = whole([compose.BASE])["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    lines = [line.partition("=") for line in _PROPERTIES.splitlines() if not line.startswith("#")]
    wanted = {name: value for name, _, value in lines if name not in ELSEWHERE | TUNED}
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in kafka["environment"].items()
    }
    fixed = {name: value for name, value in wanted.items() if not value.startswith("{")}
    assert {name: given.get(name) for name in fixed} == fixed
    assert set(wanted) | ELSEWHERE | {"heap.opts"} == set(given)


def test_minio_is_the_version_that_the_tests_use() -> None:
    version = r"github\.com/minio/minio@(\S+)"
    assert re.findall(version, DOCKERFILE.read_text()) == re.findall(version, (ROOT / "Makefile").read_text())


def test_the_images_are_pinned_unprivileged_and_made_of_what_is_there() -> None:
    names = [stage.name for stage in stages()]
    assert len(names) == len(set(names))
    for stage in stages():
        assert stage.base in names or re.fullmatch(r"[\w./-]+:\d[\w.-]+", stage.base), (
            f"{stage.base} is not pinned"
        )
    for target in ("control", "worker", "minio"):
        found = instructions(target)
        assert [words for name, words in found if name == "USER"][-1] == "10001:10001"
        assert any(name == "HEALTHCHECK" for name, _ in found)
    for name, words in (one for stage in stages() for one in stage.instructions):
        if name == "COPY" and "--from" not in words:
            sources = [word for word in words.split() if not word.startswith("--")][:-1]
            assert [source for source in sources if not (ROOT / source).exists()] == []
        if name == "RUN" and " install " in words and "requirements/" in words and "pip" in words:
            assert "--require-hashes" in words or "UV_REQUIRE_HASHES=1" in DOCKERFILE.read_text()
