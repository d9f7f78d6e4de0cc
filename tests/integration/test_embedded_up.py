"""`trainwright up`, `down`, `status` with a real Kafka and stand-ins for the services: what starts, what is left.

The stand-ins are a package `services` put before the real one: a web server that is ready, a worker that sleeps.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.patience import patient
from trainwright.embedded import process
from trainwright.embedded.archive import free_ports

CONTROL_PLANE = """
import http.server, json, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if os.path.exists("broken"):
    sys.exit("the settings are wrong")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("unready") else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "ok", "key": os.environ["TRAINWRIGHT_ADMIN_KEY_FILE"]}).encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["TRAINWRIGHT_PORT"])), Handler).serve_forever()
"""
WORKER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
own = {name: value for name, value in os.environ.items() if name.startswith("TRAINWRIGHT_")}
home = os.environ["TRAINWRIGHT_WORKER_HOME"]
os.makedirs(home, exist_ok=True)
open(home + "/environment.json", "w").write(json.dumps(own))
while True:
    time.sleep(60)
"""


@dataclass
class Machine:
    """A place to run the command in: its home, its port, its stand-ins."""

    home: Path
    port: int
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trainwright.cli.platform", *arguments, "--home", str(self.home)]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def up(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run("up", "--detach", "--port", str(self.port), *arguments)

    def foreground(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command("up", "--port", str(self.port), *arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def pids(self) -> dict[str, tuple[int, str]]:
        found = {}
        for entry in json.loads((self.home / "state.json").read_text())["processes"]:
            if entry["pid"] and entry["started"]:
                found[entry["name"]] = (entry["pid"], entry["started"])
        return found

    def get(self) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5) as answer:
            body: bytes = answer.read()
            return body


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    package = tmp_path / "code" / "services"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(CONTROL_PLANE)
    (package / "trainer_worker.py").write_text(WORKER)
    environment = {key: value for key, value in os.environ.items() if key != "TRAINWRIGHT_HOME"}
    environment["PYTHONPATH"] = str(package.parent)
    made: list[Machine] = []

    def make(name: str = "home") -> Machine:
        made.append(Machine(tmp_path / name, free_ports(1)[0], environment))
        return made[-1]

    yield make
    for one in made:
        one.run("down")


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = patient(seconds)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def gone(pids: dict[str, tuple[int, str]], seconds: float) -> bool:
    return all(process.wait_gone(pid, mark, seconds) for pid, mark in pids.values())


def in_home(home: Path) -> list[str]:
    """Return the command lines of processes that have this home in their environment or arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            if str(home).encode() in text or os.readlink(folder / "cwd").startswith(str(home)):
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
    return found


def cluster_of(home: Path) -> str:
    """Return the id that Kafka's log was formatted with."""
    lines = (home / "kafka" / "log" / "meta.properties").read_text().splitlines()
    return next(line for line in lines if line.startswith("cluster.id="))


def test_up_status_down_and_up_again_on_the_same_ports(machine: Callable[..., Machine]) -> None:
    one = machine()
    assert "Nothing runs" in one.run("status").stdout
    done = one.up("--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Starting Kafka, the services and 2 workers\nReady after ")
    assert f"http://127.0.0.1:{one.port}" in done.stdout
    assert json.loads(one.get())["key"] == str(one.home / "api-key")
    assert (one.home / "api-key").stat().st_mode & 0o777 == 0o600

    status = one.status()
    assert status["ready"] is True
    cluster = cluster_of(one.home)
    assert [entry["name"] for entry in status["processes"]][:3] == ["supervisor", "kafka", "control-plane"]
    assert all(entry["memory"] > 0 for entry in status["processes"])
    own = json.loads((one.home / "workers" / "2" / "environment.json").read_text())
    assert own["TRAINWRIGHT_KAFKA"] == status["kafka"]
    assert not {name for name in own if "KEY" in name or "TOKEN" in name}

    pids = one.pids()
    assert len(pids) >= 4
    assert len(in_home(one.home)) >= 5
    assert one.run("down").stdout.endswith("Stopped.\n")
    assert gone(pids, 0)
    assert in_home(one.home) == []
    assert "Nothing runs" in one.run("down").stdout

    shutil.rmtree(one.home / "kafka" / "log")
    again = one.run("up", "--detach")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (one.status()["kafka"], one.status()["url"]) == (status["kafka"], status["url"])
    assert cluster_of(one.home) != cluster, "who knew the log that was lost must see that it was"


def test_kill_9_of_the_supervisor_ends_all_and_the_next_up_works_at_once(
    machine: Callable[..., Machine],
) -> None:
    one = machine()
    assert one.up().returncode == 0
    pids, supervisor = one.pids(), one.status()["processes"][0]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    again = one.up()
    assert again.returncode == 0, again.stdout + again.stderr
    assert gone(pids, 0)
    assert one.status()["ready"] is True


def test_down_after_kill_9_leaves_a_clean_home(machine: Callable[..., Machine]) -> None:
    one = machine()
    assert one.up().returncode == 0
    os.kill(one.status()["processes"][0]["pid"], signal.SIGKILL)
    assert one.run("down").returncode == 0
    assert in_home(one.home) == []
    assert one.status()["running"] is False


def test_what_dies_is_started_again(machine: Callable[..., Machine]) -> None:
    one = machine()
    assert one.up().returncode == 0
    before = one.pids()
    for name in ("control-plane", "worker-1", "kafka"):
        os.kill(before[name][0], signal.SIGKILL)

    def all_new() -> bool:
        now = one.pids()
        return all(name in now and now[name] != before[name] for name in before if name != "kafka-archive")

    wait_for(all_new)
    wait_for(lambda: one.status()["ready"])
    assert {entry["name"]: entry["deaths"] for entry in one.status()["processes"]}["kafka"] == 1


def test_two_homes_run_side_by_side(machine: Callable[..., Machine]) -> None:
    first, second = machine("first"), machine("second")
    assert first.up().returncode == 0
    assert second.up().returncode == 0
    assert first.status()["kafka"] != second.status()["kafka"]
    first.run("down")
    assert second.status()["ready"] is True
    assert in_home(first.home) == []


def test_a_second_up_on_the_same_home_names_the_first(machine: Callable[..., Machine]) -> None:
    one = machine()
    assert one.up().returncode == 0
    again = one.up()
    assert again.returncode == 1
    assert f"pid {one.status()['processes'][0]['pid']}" in again.stderr
    assert again.stderr.count("\n") == 1
    assert one.status()["ready"] is True


def test_a_port_in_use_is_one_sentence(machine: Callable[..., Machine]) -> None:
    one, other = machine("one"), machine("other")
    assert one.up().returncode == 0
    other.port = one.port
    done = other.up()
    assert done.returncode == 1
    assert f"Port {one.port} of 127.0.0.1 is already in use" in done.stderr
    assert "--port" in done.stderr
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    assert in_home(other.home) == []
    other.port = free_ports(1)[0]
    assert other.up().returncode == 0
    other.run("down")
    assert f":{other.port}" in other.run("up", "--detach").stdout  # the port that worked was kept


def test_a_control_plane_that_does_not_come_up_is_shown_with_its_log(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.home.mkdir()
    (one.home / "broken").touch()
    done = one.up()
    assert done.returncode == 1
    assert "control-plane ended 5 times while starting" in done.stderr
    assert "the settings are wrong" in done.stderr
    assert in_home(one.home) == []


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.1),
        (signal.SIGHUP, 0.5),
        (signal.SIGTERM, 0.8),
        (signal.SIGINT, 1.2),
        (signal.SIGTERM, 2.0),
    ],
)
def test_a_signal_at_any_moment_leaves_nothing(
    machine: Callable[..., Machine], number: signal.Signals, after: float
) -> None:
    one = machine()
    with one.foreground() as started:
        time.sleep(after)
        started.send_signal(number)
        started.communicate(timeout=90)
    assert in_home(one.home) == []


def test_ctrl_c_while_it_never_gets_ready(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.home.mkdir()
    (one.home / "unready").touch()
    with one.foreground() as started:
        wait_for(lambda: (one.home / "state.json").exists() and "control-plane" in one.pids())
        time.sleep(1)
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 130
    assert in_home(one.home) == []


def test_ctrl_c_while_a_detached_one_starts_ends_it(machine: Callable[..., Machine]) -> None:
    one = machine()
    one.home.mkdir()
    (one.home / "unready").touch()
    command = one.command("up", "--detach", "--port", str(one.port))
    with subprocess.Popen(command, env=one.environment) as started:
        wait_for((one.home / "state.json").exists)
        started.send_signal(signal.SIGINT)
        assert started.wait(90) == 130
    assert in_home(one.home) == []


def test_ctrl_c_while_the_demo_starts_ends_everything(machine: Callable[..., Machine]) -> None:
    one = machine()
    own = one.home / "demo"
    own.mkdir(parents=True)
    (own / "unready").touch()
    command = [sys.executable, "-m", "trainwright.cli.main", "demo"]
    environment = {**one.environment, "TRAINWRIGHT_HOME": str(one.home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as started:
        wait_for((own / "state.json").exists)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=90)
        assert started.returncode == 130
    assert said.endswith("Interrupted; everything is stopped.\n")
    assert in_home(one.home) == []


def test_a_kafka_that_cannot_use_its_folder_is_one_sentence(machine: Callable[..., Machine]) -> None:
    one = machine()
    (one.home / "kafka" / "server.new").mkdir(parents=True)
    done = one.up()
    assert done.returncode == 1
    assert done.stderr.startswith(f"trainwright: Kafka cannot use the folder {one.home / 'kafka'}: ")
    assert done.stderr.count("\n") == 1
    assert in_home(one.home) == []


def test_the_foreground_says_where_it_is_and_how_to_stop(machine: Callable[..., Machine]) -> None:
    one = machine()
    with one.foreground() as started:
        wait_for(lambda: one.home.exists() and one.status()["ready"])
        started.send_signal(signal.SIGINT)
        said, _ = started.communicate(timeout=90)
    assert started.returncode == 0
    for part in (f"http://127.0.0.1:{one.port}", str(one.home / "api-key"), "Ctrl-C", "Stopped"):
        assert part in said.replace("\n", "")
