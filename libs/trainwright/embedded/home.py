"""The home: one folder that holds everything an embedded Trainwright keeps, and who uses it now.

    lock       held (flock) by the supervisor; holds its pid      home.json   chosen once: ports
    api-key    the admin key (0600)                               state.json  live: pids, url, ready
    kafka/  services/<name>.db  blobs/  workers/<n>/  logs/<name>.log

Not here: starting anything (`supervisor`).
"""

import contextlib
import fcntl
import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainwright.embedded.errors import HomeError, explain
from trainwright.embedded.kafka import HOST

DEFAULT_PORT = 8700
FREE_BYTES = 256 * 2**20
# Below the ports that systems hand out by themselves (32768 on Linux, 49152 on macOS): rarely lent to others.
_KAFKA_PORTS = range(20_000, 32_000)
_FOLDERS = ("kafka", "services", "blobs", "workers", "logs")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a home chose once: the ports it uses."""

    kafka_port: int
    controller_port: int
    port: int


def port_in_use(port: int) -> bool:
    """Return whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise HomeError(f"Port {port} needs more rights than this user has; choose one from 1024 on") from None
        except OSError:
            return True
    return False


class Home:
    """A home on disk. Nothing is touched before :meth:`create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock_file = path / "lock"
        self.api_key_file = path / "api-key"
        self.state_file = path / "state.json"
        self.identity_file = path / "home.json"
        self.kafka = path / "kafka"
        self.services = path / "services"
        self.blobs = path / "blobs"
        self.logs = path / "logs"

    def worker(self, number: int) -> Path:
        """Return the folder of the n-th worker, from 1."""
        return self.path / "workers" / str(number)

    def log(self, name: str) -> Path:
        """Return the log of a process."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make what is missing and check that it can be used.

        Raises:
            HomeError: It cannot; the message is one sentence.
        """
        if self.path.exists() and not self.path.is_dir():
            raise HomeError(f"The home {self.path} is a file, not a folder; name another one with --home")
        with self._readable_errors():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _FOLDERS:
                if (self.path / name).exists() and not (self.path / name).is_dir():
                    raise HomeError(
                        f"In the home {self.path} a file is where the folder '{name}' belongs; move it"
                    )
                (self.path / name).mkdir(exist_ok=True)
            self._check_writable()
            free = shutil.disk_usage(self.path).free
        if free < FREE_BYTES:
            raise HomeError(
                f"The disk of the home {self.path} is nearly full: {free // 2**20} MiB are free, "
                f"{FREE_BYTES // 2**20} MiB are needed"
            )

    @contextlib.contextmanager
    def locked(self, seconds: float = 0.5) -> Iterator[None]:
        """Hold the home, alone, until the block or the process ends.

        Raises:
            HomeError: Another supervisor holds it; the message names its pid.
        """
        with self._readable_errors():
            lock = open(self.lock_file, "a+")  # noqa: SIM115 - held over the block below
        with lock:
            deadline = time.monotonic() + seconds  # somebody may just be looking (`holder`)
            while not _try_lock(lock.fileno(), fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise HomeError(
                        f"Trainwright already runs on the home {self.path} (pid {_pid_in(self.lock_file)}); "
                        "stop it with `trainwright down` or name another home with --home"
                    )
                time.sleep(0.02)
            with self._readable_errors():
                lock.truncate(0)
                lock.write(f"{os.getpid()}\n")
                lock.flush()
            yield

    def holder(self) -> int | None:
        """Return the pid of the supervisor that holds this home, None when nobody does."""
        try:
            with open(self.lock_file) as lock:
                return None if _try_lock(lock.fileno(), fcntl.LOCK_SH) else _pid_in(self.lock_file) or 0
        except OSError:
            return None

    def identity(self) -> Identity:
        """Return what this home chose, choosing on the first call.

        Raises:
            HomeError: `home.json` is damaged or cannot be written.
        """
        kept = self._load_identity()
        if kept is not None:
            return kept
        found = self._new_identity()
        self.save(found)
        return found

    def save(self, identity: Identity) -> None:
        """Keep an identity.

        Raises:
            HomeError: It cannot be written.
        """
        self.write(self.identity_file, json.dumps(asdict(identity), indent=2) + "\n")

    def free_kafka_ports(self, identity: Identity) -> Identity:
        """Return the identity with Kafka ports that are free now, the kept ones if they are; keeps the answer."""
        wanted = (identity.kafka_port, identity.controller_port)
        taken = {identity.port + offset for offset in range(-1, 8)}
        free = [port for port in wanted if port not in taken and not port_in_use(port)]
        if free == list(wanted):
            return identity
        while len(free) < len(wanted):
            port = random.choice(_KAFKA_PORTS)
            if port not in taken and port not in free and not port_in_use(port):
                free.append(port)
        identity = replace(identity, kafka_port=free[0], controller_port=free[1])
        self.save(identity)
        return identity

    def api_key(self) -> str:
        """Return the admin key, made on the first call; only its owner can read the file.

        Raises:
            HomeError: It cannot be read or written.
        """
        with self._readable_errors():
            with contextlib.suppress(FileNotFoundError):
                key = self.api_key_file.read_text().strip()
                if key:
                    self.api_key_file.chmod(0o600)
                    return key
            key = secrets.token_urlsafe(32)
            self.write(self.api_key_file, f"{key}\n", mode=0o600)
            return key

    def state(self) -> dict[str, Any]:
        """Return what the supervisor last wrote about itself; empty when there is nothing or it is damaged."""
        try:
            found = json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        """Say what runs now.

        Raises:
            HomeError: It cannot be written.
        """
        self.write(self.state_file, json.dumps(state, indent=2) + "\n")

    def _load_identity(self) -> Identity | None:
        with self._readable_errors():
            try:
                found = json.loads(self.identity_file.read_text())
                return Identity(
                    kafka_port=_port(found["kafka_port"]),
                    controller_port=_port(found["controller_port"]),
                    port=_port(found["port"]),
                )
            except FileNotFoundError:
                return None
            except (ValueError, KeyError, TypeError):
                raise HomeError(
                    f"{self.identity_file} is damaged; remove this one file and nothing is lost but the ports"
                ) from None

    def _new_identity(self) -> Identity:
        first, second = random.sample(_KAFKA_PORTS, 2)
        return Identity(first, second, DEFAULT_PORT)

    def _check_writable(self) -> None:
        probe = self.path / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            probe.unlink(missing_ok=True)

    def write(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Replace a file of the home as a whole.

        Raises:
            HomeError: It cannot be written.
        """
        new = path.with_name(f".{path.name}.{os.getpid()}")
        with self._readable_errors():
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            finally:
                new.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HomeError(f"The home {self.path} cannot be used: {explain(error)}") from error


def _port(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= 65_535:
        raise ValueError(value)
    return value


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
