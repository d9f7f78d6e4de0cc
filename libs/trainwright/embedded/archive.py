"""The class archive that halves the start of Kafka: run it once, have the JVM write down what it loaded.

Made under a temporary name and renamed, so a reader sees a whole one or none.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from trainwright.embedded import process
from trainwright.embedded.distribution import Distribution
from trainwright.embedded.kafka import HOST, KafkaProcess

_SECONDS = 120.0


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on now."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            taken = stack.enter_context(socket.socket())
            taken.bind((HOST, 0))
            found.append(int(taken.getsockname()[1]))
        return found


def make_archive(distribution: Distribution) -> bool:
    """Make the archive if there is none; return whether there is one now. It takes some 10 s, once."""
    if distribution.archive.exists():
        return True
    for left in distribution.folder.parent.glob("archive-*"):
        if process.started(int(left.name.split("-")[1])) is None:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"archive-{os.getpid()}-", dir=distribution.folder.parent) as name:
        folder = Path(name)
        port, controller = free_ports(2)
        kafka = KafkaProcess(folder / "kafka", port=port, controller_port=controller, distribution=distribution)
        kafka.prepare()
        recorded, new = folder / "classes.record", folder / "classes.aot"
        # Two steps of ours: the JVM's own one-step way leaves a second JVM that nobody ends with us.
        running = _spawn(kafka, folder, "-XX:AOTMode=record", f"-XX:AOTConfiguration={recorded}")
        try:
            kafka.wait_ready()
        finally:
            process.stop(running, _SECONDS)
        running = _spawn(
            kafka, folder, "-XX:AOTMode=create", f"-XX:AOTConfiguration={recorded}", f"-XX:AOTCache={new}"
        )
        try:
            running.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.stop(running, 0)
        if not new.exists():
            return False
        os.replace(new, distribution.archive)
    return True


def _spawn(kafka: KafkaProcess, folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    java, *rest = kafka.command()
    return process.spawn([java, *options, *rest], log=folder / "log", folder=kafka.folder)
