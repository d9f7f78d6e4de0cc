"""Which processes an embedded Trainwright is made of: their commands, environments, ports and order of stopping.

The services are only named here; the library never imports them.
"""

import glob
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainwright.embedded.home import Home, Identity
from trainwright.embedded.kafka import HOST, KafkaProcess
from trainwright.embedded.roster import Roster

# Each service with the distance of its port from the gateway's, when it is a process of its own.
SERVICES: Mapping[str, int] = {"gateway": 0, "task": 1, "scheduler": 2, "monitor": 3, "result": 4, "log": 5}
ALL_SERVICES = "services"
WORKER = "services.trainer_worker"
PROVISIONER = "services.provisioner"
WORKER_CLASS = "worker"
"""Workers here are called `worker-1`, …; all are of one class, as they share one machine."""
# Who stops first: agents end their attempts, then say so through the services and Kafka.
FIRST, SECOND, LAST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Program:
    """One process to keep running."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(repr=False)
    stage: int = SECOND
    stop_seconds: float = 10.0
    port: int | None = None
    once: bool = False
    nice: int = 0


def ports(identity: Identity, separate: bool) -> dict[str, int]:
    """Return the HTTP ports that are listened on, by process."""
    if separate:
        return {name: identity.port + offset for name, offset in SERVICES.items()}
    return {"control-plane": identity.port}


def kafka_program(kafka: KafkaProcess) -> Program:
    """Return the program of a prepared Kafka."""
    return Program(
        "kafka",
        tuple(kafka.command()),
        kafka.folder,
        _clean(),
        stage=LAST,
        stop_seconds=10.0,
        port=kafka.port,
    )


def archive_program(home: Home) -> Program:
    """Return the program that makes Kafka's class archive once, at the lowest priority."""
    command = _python("trainwright.embedded.distribution")
    return Program("kafka-archive", command, home.path, _clean(), FIRST, stop_seconds=0, once=True, nice=19)


def service_programs(home: Home, identity: Identity, *, token: str, separate: bool) -> list[Program]:
    """Return the control plane: one process, or each service its own."""
    common = {
        **_clean(),
        **_shared(home, identity),
        "TRAINWRIGHT_HOST": HOST,
        "TRAINWRIGHT_INTERNAL_TOKEN": token,
    }
    key = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(home.api_key_file)}
    if not separate:
        environment = {**common, **key, "TRAINWRIGHT_PORT": str(identity.port)}
        return [Program("control-plane", _python(ALL_SERVICES), home.path, environment, port=identity.port)]
    at = ports(identity, separate)
    urls = {
        f"TRAINWRIGHT_{name.upper()}_URL": f"http://{HOST}:{port}"
        for name, port in at.items()
        if name != "gateway"
    }
    return [
        Program(
            name,
            _python(f"{ALL_SERVICES}.{name}"),
            home.path,
            {**common, **(key | urls if name == "gateway" else {}), "TRAINWRIGHT_PORT": str(port)},
            port=port,
        )
        for name, port in at.items()
    ]


def worker_programs(home: Home, identity: Identity, count: int) -> list[Program]:
    """Return the agents. Several share this machine evenly; none sees a key or a token."""
    return [
        Program(
            f"{WORKER_CLASS}-{number}",
            _python(WORKER),
            home.path,
            {
                **_clean(),
                **_shared(home, identity, stores=False),
                **_share(number, count),
                **{name: value for name, value in os.environ.items() if name.startswith("TRAINWRIGHT_WORKER_")},
                "TRAINWRIGHT_WORKER_HOME": str(home.worker(number)),
            },
            stage=FIRST,
            stop_seconds=18.0,
        )
        for number in range(1, count + 1)
    ]


def wanted_workers(home: Home, identity: Identity, most: int) -> list[Program]:
    """Return the agents that the provisioner wants now, each labelled with its name.

    Raises:
        HomeError: It is not known which.
    """
    names = Roster(home).read()
    programs = [program for program in worker_programs(home, identity, most) if program.name in names]
    return [replace(one, environment={**one.environment, **_labelled(one)}) for one in programs]


def _labelled(program: Program) -> dict[str, str]:
    """Return the operator's labels with the one that the provisioner knows its workers by."""
    variable = "TRAINWRIGHT_WORKER_LABELS"
    return {
        variable: json.dumps({**json.loads(program.environment.get(variable) or "{}"), "machine": program.name})
    }


def provisioner_program(home: Home, identity: Identity, most: int) -> Program:
    """Return the provisioner of workers on this machine; times are its own settings' (`PROVISIONER_…`)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    one = {
        "name": WORKER_CLASS,
        "cpu": round((os.cpu_count() or 1) / most, 3),
        "memory": memory // most,
        "gpu": len(_devices()) // most,
        "max": most,
    }
    environment = {
        **_clean(),
        "PROVISIONER_COOL_DOWN": os.environ.get("PROVISIONER_COOL_DOWN", "60"),
        "PROVISIONER_EVERY": os.environ.get("PROVISIONER_EVERY", "0.5"),
        "PROVISIONER_MACHINES": "local",
        "PROVISIONER_CLASSES": json.dumps([one]),
        "PROVISIONER_HOME": str(home.path),
        "PROVISIONER_URL": f"http://{HOST}:{identity.port}",
        "PROVISIONER_API_KEY_FILE": str(home.api_key_file),
    }
    return Program("provisioner", _python(PROVISIONER), home.path, environment, stage=FIRST, stop_seconds=5.0)


def _devices() -> list[str]:
    return glob.glob("/dev/nvidia[0-9]*")


def most_workers() -> int:
    """Return how many workers this machine has at most when nobody says: one for each GPU, or one."""
    return max(1, len(_devices()))


def _python(module: str) -> tuple[str, ...]:
    # -P: a folder called like a module, where the process happens to start, must not be taken for it.
    return (sys.executable, "-P", "-m", module)


def _clean() -> dict[str, str]:
    """Return this environment without what is Trainwright's own: each process is told what it needs."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRAINWRIGHT_") or name == "TRAINWRIGHT_CACHE"
    }


def _shared(home: Home, identity: Identity, stores: bool = True) -> dict[str, str]:
    found = {
        "TRAINWRIGHT_KAFKA": f"{HOST}:{identity.kafka_port}",
        "TRAINWRIGHT_BLOBS": f"dir:{home.blobs}",
        "TRAINWRIGHT_TOPICS": "embedded",
    }
    return found | {"TRAINWRIGHT_STORE": f"sqlite:{home.services}"} if stores else found


def _share(number: int, count: int) -> dict[str, str]:
    """Return the n-th worker's part of this machine; a single worker takes all of it by itself."""
    if count == 1:
        return {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {
        "TRAINWRIGHT_WORKER_CPUS": str(round((os.cpu_count() or 1) / count, 3)),
        "TRAINWRIGHT_WORKER_MEMORY": str(memory // count),
    }
    if devices := _devices():
        found["TRAINWRIGHT_WORKER_GPUS"] = json.dumps(list(range(number - 1, len(devices), count)))
    return found
