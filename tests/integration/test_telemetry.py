"""One task through three processes that are watched: its trace, edge by edge, and the figures of each process."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.telemetry_platform import SECRET, Watched, answers, provisioner, watched
from tests.kafka_fixture import own_broker
from tests.trace_collector import Collector, Span, collecting, until
from trainwright.embedded.archive import free_ports
from trainwright.runtime.telemetry.names import EDGES, METRICS, SPAN_KINDS, Edge, Step

PROGRAM = "TRAINWRIGHT_TEST_PROMETHEUS"
ROOT = Step("gateway", "POST /api/v1/training/tasks")


@dataclass(frozen=True, slots=True)
class Story:
    """A platform through which one task has gone, and the spans that it sent."""

    platform: Watched
    collector: Collector
    task_id: str

    @property
    def trace(self) -> list[Span]:
        """Return the spans of the task's one trace."""
        (root,) = self.collector.named(ROOT)
        return [span for span in self.collector.spans if span.trace_id == root.trace_id]

    def continues(self, edge: Edge) -> bool:
        """Return whether a span of the child's name continues one of the parents' in the task's trace."""
        parents = {span.span_id for span in self.trace if span.step in edge.parents}
        return any(span.parent_id in parents for span in self.trace if span.step == edge.child)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("telemetry")
    with collecting() as collector, own_broker(folder / "kafka") as broker:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with watched(broker.bootstrap, folder, **env) as platform:
            for url in platform.urls.values():
                until(lambda url=url: answers(url, "/health/live"), within=60)
            found = Story(platform, collector, platform.train())
            until(lambda: all(map(found.continues, EDGES)), within=60)  # the report is drawn last
            yield found


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.child.service}-{edge.child.span}")
def test_a_span_continues_the_one_that_the_table_says(story: Story, edge: Edge) -> None:
    there = sorted({f"{span.step.service}: {span.step.span}" for span in story.trace})
    assert story.continues(edge), "\n".join(there)


def test_every_span_of_the_trace_hangs_on_another_and_is_named_by_the_table(story: Story) -> None:
    known = {span.span_id for span in story.trace}
    (root,) = [span for span in story.trace if not span.parent_id]
    assert root.step == ROOT
    assert [span.step for span in story.trace if span.parent_id and span.parent_id not in known] == []
    attributes = {name for kind in SPAN_KINDS for name in kind.attributes} | {"error.type"}
    assert {name for span in story.collector.spans for name in span.attributes} <= attributes
    beginnings = tuple(kind.name.partition("{")[0] for kind in SPAN_KINDS if not kind.name.startswith("{"))
    methods = ("GET ", "POST ", "PUT ", "HEAD ")
    odd = [span.step for span in story.collector.spans if not span.step.span.startswith(beginnings + methods)]
    assert odd == []


def test_the_run_itself_is_told_its_place_in_the_trace(story: Story) -> None:
    (run,) = story.collector.named(Step("trainer_worker", "run attempt"))
    (written,) = story.platform.folder.glob("worker/attempts/*/stdout*")
    assert f"TRACEPARENT 00-{run.trace_id}-{run.span_id}-" in written.read_text()
    assert run.attributes["trainwright.outcome"] == "completed"


def test_no_span_says_what_a_payload_says(story: Story) -> None:
    assert SECRET not in repr(story.collector.spans)


def test_pulses_are_not_traced(story: Story) -> None:
    assert not [span.step for span in story.collector.spans if "Heartbeat" in span.step.span]


def figures(url: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return a process's samples: name, labels, value."""
    answer = httpx.get(f"{url}/metrics", timeout=90).raise_for_status()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def families(url: str) -> dict[str, tuple[str, set[tuple[str, ...]]]]:
    """Return a process's figures of ours: by name, their kind and the sets of labels that they have."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=90).text):
        if family.name.startswith("trainwright_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {tuple(sorted(set(sample.labels) - {"le"})) for sample in family.samples}
            found[name] = (family.type, labels)
    return found


def test_every_figure_of_the_table_is_shown_by_some_process_and_no_other(story: Story) -> None:
    with provisioner(story.platform) as another:
        shown = [families(url) for url in (*story.platform.urls.values(), another)]
    table = {metric.name: metric for metric in METRICS}
    assert {name for process in shown for name in process} == set(table)
    for process in shown:
        for name, (kind, labels) in process.items():
            assert kind == table[name].kind, name
            assert labels == {tuple(sorted(table[name].labels))}, name


def test_figures_say_what_the_task_has_done(story: Story) -> None:
    plane, gateway, worker = (figures(url) for url in story.platform.urls.values())
    post = {"method": "POST", "route": "/api/v1/training/tasks", "status": "2xx"}

    def labels(**of: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(of.items()))

    assert gateway["trainwright_http_requests_total"][labels(service="gateway", **post)] == 1
    assert plane["trainwright_http_requests_total"][labels(service="task", **post)] == 1
    assert plane["trainwright_tasks"][labels(status="completed")] == 1
    assert plane["trainwright_queue_length"][()] == 0
    assert plane["trainwright_placements_total"][()] == 1
    assert plane["trainwright_workers"][labels(state="alive")] == 1
    cpus = plane["trainwright_slots_cpus"]
    assert cpus[labels(state="total")] == cpus[labels(state="free")] > 0
    assert worker["trainwright_attempts_started_total"][()] == 1
    assert worker["trainwright_attempts_ended_total"][labels(outcome="completed", failure_class="")] == 1
    assert worker["trainwright_attempts"][labels(state="running")] == 0
    assert worker["trainwright_worker_spool_bytes"][()] == 0
    applied = {"service": "task", "topic": "trainwright.attempt.v1", "event": "AttemptEnded"}
    assert plane["trainwright_events_total"][labels(**applied, outcome="applied")] == 1
    assert plane["trainwright_handler_seconds_count"][labels(**applied)] == 1
    assert plane["trainwright_relay_events_total"][labels(service="task", topic="trainwright.task.v1")] >= 3
    assert plane["trainwright_outbox_depth"][labels(service="task")] == 0
    assert plane["trainwright_consumer_lag_events"][labels(service="task", topic="trainwright.attempt.v1")] == 0
    assert {name for name in plane if name.startswith("process_")} >= {
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    }


def test_no_label_names_a_task_an_attempt_or_a_worker(story: Story) -> None:
    text = "".join(httpx.get(f"{url}/metrics", timeout=90).text for url in story.platform.urls.values())
    assert story.task_id not in text
    assert "worker-" not in text


def test_a_worker_says_that_it_is_well(story: Story) -> None:
    ready = httpx.get(f"{story.platform.worker_url}/health/ready", timeout=90)
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert httpx.get(f"{story.platform.worker_url}/api/v1/training/tasks", timeout=90).status_code == 404


def program(name: str) -> str:
    """Return a program of the Debian package, or skip."""
    named = os.environ.get(PROGRAM)
    found = shutil.which(name, path=named) if named else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: `apt-get install prometheus`, or name the folder of its programs in {PROGRAM}")
    return found


def test_prometheus_finds_nothing_to_say_about_names(story: Story) -> None:
    command = [program("promtool"), "check", "metrics"]
    for url in story.platform.urls.values():
        text = httpx.get(f"{url}/metrics", timeout=90).text
        checked = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        ours = [line for line in checked.stderr.splitlines() if line.startswith("trainwright_")]
        assert ours == []
        assert checked.returncode in (0, 3), checked.stderr


def test_a_real_prometheus_scrapes_every_process(story: Story, tmp_path: Path) -> None:
    binary, (port,) = program("prometheus"), free_ports(1)
    targets = [url.removeprefix("http://") for url in story.platform.urls.values()]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: trainwright, static_configs: [{{targets: {targets}}}]}}]\n"
    )
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")

    def asked(query: str) -> list[str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=5)
        except httpx.TransportError:
            return []
        return [result["value"][1] for result in answer.json()["data"]["result"]]

    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as prometheus:
        try:
            assert until(lambda: asked("up") == ["1"] * len(targets), within=30), (tmp_path / "log").read_text()
            for metric in METRICS:
                name = metric.name + ("_count" if metric.kind == "histogram" else "")
                assert until(lambda name=name: asked(name), within=10), name
            assert asked("sum(trainwright_placements_total)") == ["1"]
        finally:
            prometheus.terminate()
