"""Servers in containers, where a Docker engine is: a replica set of one MongoDB, and a MinIO."""

import functools
import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

MONGO_IMAGE = "mongo:8.0"
MINIO_IMAGE = "minio/minio:RELEASE.2025-09-07T16-13-09Z"

_BEGIN = (
    "try { rs.status() } catch (e) { rs.initiate({_id: 'rs0', members: [{_id: 0, host: '127.0.0.1:27017'}]}) }"
)
_IS_PRIMARY = "for (let n = 0; n < 300 && !db.hello().isWritablePrimary; n++) sleep(100);"


@functools.cache
def has_docker() -> bool:
    """Return whether an engine answers, and the package that speaks to it is here."""
    if importlib.util.find_spec("testcontainers") is None:
        return False
    if os.environ.get("DOCKER_HOST"):
        return True
    with socket.socket(socket.AF_UNIX) as engine:
        return engine.connect_ex("/var/run/docker.sock") == 0


@contextmanager
def mongo_container() -> Iterator[str]:
    """Run a replica set of one; give its address. It tells another name: clients are to stay with this."""
    from testcontainers.core.container import DockerContainer

    words = "--replSet rs0 --bind_ip_all --setParameter transactionLifetimeLimitSeconds=20"
    container = DockerContainer(MONGO_IMAGE).with_command(words).with_exposed_ports(27017)
    with container:
        for script in (_BEGIN, _IS_PRIMARY):
            _in_mongo(container, script)
        host, port = container.get_container_host_ip(), container.get_exposed_port(27017)
        yield f"mongodb://{host}:{port}/?directConnection=true"


def _in_mongo(container: object, script: str) -> None:
    for _ in range(60):
        code, said = container.exec(["mongosh", "--quiet", "--eval", script])  # type: ignore[attr-defined]
        if code == 0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"MongoDB does not answer: {said!r}")


@contextmanager
def minio_container(user: str, password: str) -> Iterator[str]:
    """Run a MinIO; give its address."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    container = DockerContainer(MINIO_IMAGE).with_command("server /data").with_exposed_ports(9000)
    container = container.with_env("MINIO_ROOT_USER", user).with_env("MINIO_ROOT_PASSWORD", password)
    with container:
        wait_for_logs(container, "API:", timeout=60)
        yield f"http://{container.get_container_host_ip()}:{container.get_exposed_port(9000)}"
