"""Start, stop and look at an embedded Trainwright: the use cases behind `up`, `down` and `status`.

Not here: how it is shown (cli/platform.py), the processes themselves (`programs`), keeping them (`supervisor`).
"""

import contextlib
import http.client
import json
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainwright.embedded import leftovers, process, programs
from trainwright.embedded.distribution import ensure
from trainwright.embedded.errors import EmbeddedError, HomeError, KafkaError
from trainwright.embedded.home import Home, Identity, port_in_use
from trainwright.embedded.kafka import HOST, KafkaProcess
from trainwright.embedded.supervisor import Say, Signals, Supervisor

STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """What `up` was asked for."""

    home: Path
    port: int | None = None
    workers: int | None = 1
    """None: as many as what waits needs, up to ``max_workers``."""
    separate: bool = False
    max_workers: int | None = None
    """None: one for each GPU, or one."""

    @property
    def most(self) -> int:
        """Return how many workers there are at most when that is left to the provisioner."""
        return programs.most_workers() if self.max_workers is None else self.max_workers


@dataclass(frozen=True, slots=True)
class Started:
    """What a person needs to know when everything runs."""

    url: str
    api_key_file: Path
    home: Path
    seconds: float


def url_of(port: int) -> str:
    """Return the address of the API at a port."""
    return f"http://{HOST}:{port}"


def up(options: Options, *, say: Say, on_ready: Callable[[Started], None]) -> bool:
    """Run the platform until a signal asks to stop; return whether it had become ready.

    Raises:
        EmbeddedError: It cannot start; everything that was started has been stopped.
    """
    began = time.monotonic()
    home = Home(options.home)
    home.create()
    with Signals() as signals, home.locked():

        def stopping() -> bool:
            return signals.stops > 0

        leftovers.clear(home, stopping)
        identity = _ports(home, options)
        home.api_key()
        try:
            kafka = _prepare_kafka(home, identity, say, stopping)
        except KafkaError:
            if stopping():
                return False
            raise
        supervisor = _supervisor(home, identity, kafka, options, signals, say)
        say(f"Starting Kafka, the services and {_workers(options)}")
        try:
            supervisor.run(
                lambda: on_ready(
                    Started(url_of(identity.port), home.api_key_file, home.path, time.monotonic() - began)
                )
            )
        finally:
            if supervisor.killed:
                leftovers.end_runs(home, 1.0)
        return supervisor.was_ready


def down(home: Home, say: Say = lambda _line: None, seconds: float = STOP_SECONDS) -> bool:
    """Stop the platform of a home and wait until its processes are gone; return whether there was anything.

    Raises:
        HomeError: Something does not end.
    """
    holder = home.holder()
    if holder:
        mark = process.started(holder)
        say("Stopping: attempts first, then the services, then Kafka")
        process.kill(holder, signal.SIGTERM)
        if mark and not process.wait_gone(holder, mark, seconds):
            process.kill(holder)
            process.wait_gone(holder, mark, leftovers.KILL_SECONDS)
    if not home.path.is_dir():
        return False
    with home.locked(seconds=5.0):
        cleaned = leftovers.clear(home) + leftovers.end_runs(home, 10.0)
        state = home.state()
        if state.get("ready") or state.get("processes"):
            with contextlib.suppress(EmbeddedError):
                home.write_state({**state, "ready": False, "processes": []})
    return bool(holder) or cleaned > 0


def status(home: Home) -> dict[str, Any]:
    """Return what runs on a home now, as `status --json` shows it."""
    holder = home.holder()
    state = home.state() if holder else {}
    running: set[int | None] = {pid for _, pid, _ in leftovers.recorded(home)}
    entries = [{"name": "supervisor", "pid": holder, "port": None, "deaths": 0}] if holder else []
    listed = home.state().get("processes") or []
    entries += [entry for entry in listed if holder or entry.get("pid") in running]
    return {
        "home": str(home.path),
        "running": holder is not None,
        "ready": holder is not None and _ready_now(state),
        "url": state.get("url"),
        "kafka": state.get("kafka"),
        "since": state.get("since"),
        "workers": state.get("workers"),
        "provisioner": _provisioner(home, state),
        "processes": [_shown(entry, running | {holder}) for entry in entries],
        "runs": [{"attempt": name, "pid": pid} for name, pid, _ in leftovers.runs(home)],
    }


def is_ready(port: int, seconds: float = 1.0) -> bool:
    """Return whether the service on a port of this machine is ready, and not merely accepting without Kafka."""
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        return answer.status == 200 and json.loads(answer.read())["status"] == "ok"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False
    finally:
        connection.close()


def _ports(home: Home, options: Options) -> Identity:
    """Return the identity with ports that are free.

    Raises:
        HomeError: The HTTP port is taken.
    """
    identity = home.identity()
    if options.port is not None:
        identity = replace(identity, port=options.port)
    for name, port in programs.ports(identity, options.separate).items():
        if port > 65_535:
            raise HomeError(f"Port {identity.port} leaves no room for the service '{name}' after it")
        if port_in_use(port):
            raise HomeError(
                f"Port {port} of {HOST} is already in use by another program; choose another one with --port"
            )
    home.save(identity)  # a port that was refused is not kept
    return home.free_kafka_ports(identity)


def _prepare_kafka(home: Home, identity: Identity, say: Say, stopping: Callable[[], bool]) -> KafkaProcess:
    """Return Kafka, ready to start; a log that is made anew is another cluster, by which relays tell that."""
    kafka = KafkaProcess(
        home.kafka,
        port=identity.kafka_port,
        controller_port=identity.controller_port,
        log=home.log("kafka"),
        distribution=ensure(say, stopping),
    )
    kafka.prepare()
    return kafka


def _supervisor(
    home: Home, identity: Identity, kafka: KafkaProcess, options: Options, signals: Signals, say: Say
) -> Supervisor:
    at = programs.ports(identity, options.separate)
    distribution = ensure()
    return Supervisor(
        home,
        [
            programs.kafka_program(kafka),
            *programs.service_programs(home, identity, token=secrets.token_urlsafe(32), separate=options.separate),
            *_worker_programs(home, identity, options),
        ],
        ready=lambda: all(is_ready(port) for port in at.values()),
        signals=signals,
        say=say,
        state={
            "supervisor": os.getpid(),
            "url": url_of(identity.port),
            "kafka": kafka.bootstrap,
            "workers": "auto" if options.workers is None else options.workers,
            "max_workers": options.most if options.workers is None else options.workers,
            "since": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        after_ready=[] if distribution.archive.exists() else [programs.archive_program(home)],
        wanted=None
        if options.workers is not None
        else lambda: programs.wanted_workers(home, identity, options.most),
    )


def _worker_programs(home: Home, identity: Identity, options: Options) -> list[programs.Program]:
    """Return the workers, or who decides how many there are."""
    if options.workers is None:
        return [programs.provisioner_program(home, identity, options.most)]
    return programs.worker_programs(home, identity, options.workers)


def _provisioner(home: Home, state: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the provisioner last said, None where the number of workers is fixed."""
    if state.get("workers") != "auto":
        return None
    try:
        found = json.loads((home.path / "provisioner.json").read_text())
    except (OSError, ValueError):
        found = {"at": None, "ok": False, "waiting": 0, "machines": {}, "notes": ["it has said nothing yet"]}
    return {**found, "max_workers": state.get("max_workers")}


def _ready_now(state: dict[str, Any]) -> bool:
    port = str(state.get("url") or "").rpartition(":")[2]
    return bool(state.get("ready")) and port.isdigit() and is_ready(int(port))


def _shown(entry: dict[str, Any], running: set[int | None]) -> dict[str, Any]:
    pid = entry.get("pid")
    alive = pid in running and pid is not None
    return {
        "name": entry.get("name"),
        "pid": pid if alive else None,
        "state": "running" if alive else "waiting to start",
        "port": entry.get("port"),
        "memory": process.memory(pid) if alive and pid else None,
        "deaths": entry.get("deaths", 0),
    }


def _workers(options: Options) -> str:
    count = options.workers
    if count is None:
        return f"workers when they are needed, {options.most} at most"
    return "no worker" if count == 0 else "one worker" if count == 1 else f"{count} workers"


__all__ = ["EmbeddedError", "Options", "Started", "down", "is_ready", "status", "up", "url_of"]
