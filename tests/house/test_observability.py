"""Dashboards, alert rules and the collector's configuration name what there is.

Prometheus' own check goes along where it is installed.
"""

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.house import compose
from tests.house.house import ROOT

DEPLOY = ROOT / "deploy"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules.yml"
OURS = {"gateway", "task", "scheduler", "monitor", "result", "log", "worker"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
OF_A_TARGET = {"job", "instance", "process", "le"}
KNOWN = {  # of the image's release, by where they stand in its configuration
    "receivers": {"otlp"},
    "processors": {"memory_limiter", "batch"},
    "exporters": {"otlp_grpc", "otlp_http", "debug"},
}
boards = pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)


def figures() -> dict[str, set[str]]:
    """Return each series that processes show, with its labels."""
    table = importlib.import_module("trainwright.runtime.telemetry.names").METRICS
    return {m.name + suffix: {*m.labels} for m in table for suffix in SUFFIXES[m.kind]}


def load(path: Path) -> dict[str, Any]:
    """Return what is in a dashboard."""
    return dict(json.loads(path.read_text()))


def queries() -> Iterator[tuple[str, str]]:
    """Give every PromQL expression, with where it stands."""
    for path in BOARDS:
        for panel in load(path)["panels"]:
            yield from ((f"{path.stem}: {panel['title']}", one["expr"]) for one in panel.get("targets", []))
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    """Return the figures and labels of an expression that nobody shows."""
    found = []
    used: set[str] = set(OF_A_TARGET)
    for name, braces in re.findall(r"\b(trainwright_\w+)(\{[^}]*\})?", expression):
        if name not in known:
            found.append(name)
            continue
        used |= known[name]
        asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", braces))
        found += [f"{name}{{{label}}}" for label in sorted(asked - known[name] - OF_A_TARGET)]
    for names in re.findall(r"\b(?:by|on)\s*\(([\w\s,]*)\)", expression):
        found += [f"by ({label})" for label in re.findall(r"\w+", names) if label not in used]
    return found


def test_every_figure_that_is_asked_for_is_shown_by_a_process() -> None:
    known = figures()
    asked = dict(queries())
    assert len(asked) > 30
    assert {where: found for where, query in asked.items() if (found := unknown(query, known))} == {}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("sum(trainwright_task)", ["trainwright_task"]),
        ("rate(trainwright_relay_seconds[5m])", ["trainwright_relay_seconds"]),
        ('trainwright_tasks{state="running"}', ["trainwright_tasks{state}"]),
        ("sum by (status, topic) (trainwright_tasks)", ["by (topic)"]),
        ("sum by (status, process) (trainwright_tasks)", []),
    ],
)
def test_the_rule_sees_a_figure_that_nobody_shows(query: str, found: list[str]) -> None:
    assert unknown(query, figures()) == found


@boards
def test_a_dashboard_is_whole(path: Path) -> None:
    board = load(path)
    assert board["uid"].startswith("trainwright-")
    assert (board["schemaVersion"], board["tags"]) == (39, ["trainwright"])
    assert "id" not in board, "Grafana numbers dashboards itself"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, f"{panel['title']} lies over another"
        cells |= own
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@boards
def test_a_dashboard_asks_a_source_that_is_provisioned(path: Path) -> None:
    there = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/datasources.yml").read_text())
    sources = {source["uid"]: source["type"] for source in there["datasources"]}
    for panel in load(path)["panels"]:
        for asked in [panel.get("datasource"), *(target["datasource"] for target in panel.get("targets", []))]:
            assert asked is None or sources.get(asked["uid"]) == asked["type"]


def test_every_address_is_one_of_the_compose_file() -> None:
    services = compose.merged([compose.BASE, DEPLOY / "compose.observability.yml"], {})["services"]
    texts = [
        path.read_text()
        for path in [*(DEPLOY / "grafana/provisioning").rglob("*.yml"), DEPLOY / "otel/collector.yaml"]
    ]
    named = set(re.findall(r"(?:://|endpoint: )([a-z-]+):\d+", "\n".join(texts)))
    assert named == {"prometheus", "jaeger"}
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert set(scraped[0]["dns_sd_configs"][0]["names"]) == OURS
    assert OURS | named | {"otel-collector"} <= set(services)
    for name in OURS:
        assert services[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"
        assert set(services["otel-collector"]["networks"]) & set(services[name]["networks"])
        assert set(services["prometheus"]["networks"]) & set(services[name]["networks"])


def test_the_collector_is_made_of_known_parts_and_uses_each() -> None:
    found = yaml.safe_load((DEPLOY / "otel/collector.yaml").read_text())
    pipelines = found["service"]["pipelines"].values()
    assert set(found) == {*KNOWN, "service"}
    for kind, known in KNOWN.items():
        declared = {name.partition("/")[0] for name in found[kind]}
        assert declared <= known
        assert {name for pipeline in pipelines for name in pipeline[kind]} == set(found[kind])


def test_prometheus_takes_configuration_rules_and_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: it comes with Debian's package prometheus")
    recorded = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(queries())
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": recorded}]}))
    for words in (
        ["check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
        ["check", "rules", str(tmp_path / "queries.yml")],
        ["test", "rules", str(Path(__file__).parent / "rules_test.yml")],
    ):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
