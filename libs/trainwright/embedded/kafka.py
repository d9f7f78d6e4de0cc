"""One Apache Kafka (KRaft) as a local process: format once, start, ready, stop.

    with KafkaProcess(folder, port=9092, controller_port=9093) as kafka:
        ...  # kafka.bootstrap == "127.0.0.1:9092"

It listens on 127.0.0.1 only and ends with the process that started it, however that ends. After a kill -9 it
recovers by itself at the next start. Not here: fetching it (`distribution`) and restarting it (`supervisor`).
"""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from trainwright.embedded import process
from trainwright.embedded.distribution import Distribution, Say, ensure
from trainwright.embedded.errors import KafkaError, explain

HOST = "127.0.0.1"
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
_JVM = (
    "-Xms48m",
    "-Xmx256m",
    "-Xss512k",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:CompileThresholdScaling=0.1",  # a broker with little to do would run interpreted for hours: twice as slow
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Xlog:disable",  # an unusable class archive is passed over without a word
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSX",
)
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor={replicas}
min.insync.replicas={insync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={insync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={insync}
group.initial.rebalance.delay.ms=0
# After a kill -9 the node must first outlive its own former session (default 9 s).
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=400
# A group that was silent for years still knows where it was (the default forgets after 7 days).
offsets.retention.minutes=2147483647
# What a topic does not say itself: kept for ever, up to this many bytes per partition.
log.retention.ms=-1
log.retention.bytes={retention_bytes}
log.segment.bytes={segment_bytes}
log.index.size.max.bytes=1048576
metadata.max.idle.interval.ms=5000
metadata.log.segment.bytes=16777216
metadata.max.retention.bytes=67108864
# One small node: the defaults take 128 MiB of heap for compaction alone.
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.io.buffer.size=262144
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=2
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a Kafka at a port says of itself."""

    cluster_id: str
    brokers: int


def new_cluster_id() -> str:
    """Return a random id as Kafka writes them; never one that a command line takes for an option."""
    while (found := urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return found


def ask(port: int, seconds: float = 1.0) -> Answer | None:
    """Return what the Kafka at a port of this machine says, None when none answers.

    One metadata request (version 4, no topics) written by hand: no client library, no event loop.
    """
    body = struct.pack(">hhih", 3, 4, 1, 11) + b"trainwright" + struct.pack(">i?", 0, False)
    try:
        with socket.create_connection((HOST, port), timeout=seconds) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            (size,) = struct.unpack(">i", _exactly(connection, 4))
            if not 16 <= size <= 65_536:
                return None
            return _parse(_exactly(connection, size))
    except (OSError, struct.error, UnicodeDecodeError):
        return None


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def _parse(data: bytes) -> Answer | None:
    correlation, _throttle, brokers = struct.unpack_from(">iii", data)
    if correlation != 1 or not 0 <= brokers <= 100:
        return None
    at = 12

    def text(at: int) -> tuple[str, int]:
        (size,) = struct.unpack_from(">h", data, at)
        return data[at + 2 : at + 2 + max(size, 0)].decode(), at + 2 + max(size, 0)

    for _ in range(brokers):
        _host, at = text(at + 4)
        _rack, at = text(at + 4)
    return Answer(text(at)[0], brokers)


class KafkaProcess:
    """Kafka on this machine, its data under one folder. Several may run side by side on their own ports.

    Each log that is made anew is another cluster, by which its clients tell that the former one was lost. With
    ``quorum``, the controller ports of all nodes by their number, it is one node of a cluster: all are given the
    same cluster id, keep three replicas of what they hold, and acknowledge what two of them have.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        controller_port: int,
        cluster_id: str | None = None,
        log: Path | None = None,
        distribution: Distribution | None = None,
        retention_bytes: int = 512 * 2**20,
        segment_bytes: int = 64 * 2**20,
        node: int = 1,
        quorum: Mapping[int, int] | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.port = port
        self.controller_port = controller_port
        self.log = log or self.folder / "kafka.log"
        self._node = node
        self._quorum = quorum or {node: controller_port}
        self._cluster_id = cluster_id
        self._distribution = distribution
        self._bytes = (retention_bytes, segment_bytes)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Return the address for clients."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the process id of a started Kafka."""
        return None if self._process is None else self._process.pid

    @property
    def properties(self) -> Path:
        """Return where its settings are written."""
        return self.folder / "server.properties"

    def prepare(self, say: Say = lambda _line: None) -> None:
        """Fetch Kafka if needed, write its settings, format its folder once.

        Raises:
            KafkaError: It cannot; the message is one sentence.
        """
        self._distribution = self._distribution or ensure(say)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(self.properties, "log")
            if not (self.folder / "log" / "meta.properties").exists():
                self._format()
        except OSError as error:
            raise KafkaError(f"Kafka cannot use the folder {self.folder}: {explain(error)}") from error

    def command(self) -> list[str]:
        """Return the command that runs a prepared Kafka, to be started in its folder."""
        return [*self._java(), "kafka.Kafka", self.properties.name]

    def start(self) -> None:
        """Start it; returns before it is ready. Call it from a thread that lives as long as Kafka should."""
        self.prepare()
        process.rotate(self.log)
        self._process = process.spawn(self.command(), log=self.log, folder=self.folder)

    def ready(self) -> bool:
        """Return whether it answers clients now."""
        answer = ask(self.port)
        return answer is not None and answer.brokers > 0 and answer.cluster_id == self.cluster_id()

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it answers.

        Raises:
            KafkaError: It ended or did not answer in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not self.ready():
            ended = None if self._process is None else self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                what = f"ended with code {ended}" if ended is not None else f"did not answer in {seconds:.0f} s"
                raise KafkaError(f"Kafka {what}; the end of {self.log}:\n{process.tail(self.log)}")
            time.sleep(0.05)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop it, by force after ``seconds``; does nothing when it does not run."""
        if self._process is not None:
            process.stop(self._process, seconds)
            self._process = None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            process.kill_group(self._process.pid)
            self.stop(0)

    def cluster_id(self) -> str | None:
        """Return the id its folder was formatted with, None before that."""
        with contextlib.suppress(OSError):
            for line in (self.folder / "log" / "meta.properties").read_text().splitlines():
                if line.startswith("cluster.id="):
                    return line.partition("=")[2].strip()
        return None

    def __enter__(self) -> "KafkaProcess":
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _java(self) -> list[str]:
        assert self._distribution is not None, "prepare() comes first"
        archive = self._distribution.archive
        cached = [f"-XX:AOTCache={archive}"] if archive.exists() else []
        return [str(self._distribution.java), *_JVM, *cached, "-cp", self._distribution.classpath]

    def _write(self, path: Path, log: str) -> None:
        # Relative: a folder's name may hold what this format cannot (a comma, letters outside Latin-1).
        retention, segment = self._bytes
        text = _PROPERTIES.format(
            host=HOST,
            port=self.port,
            controller_port=self.controller_port,
            node=self._node,
            voters=",".join(f"{node}@{HOST}:{port}" for node, port in self._quorum.items()),
            replicas=min(3, len(self._quorum)),
            insync=2 if len(self._quorum) > 2 else 1,
            log=log,
            retention_bytes=retention,
            segment_bytes=segment,
        )
        new = path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, path)

    def _format(self) -> None:
        """Format beside the real folder and rename it: one that was interrupted half-way never counts."""
        new, settings = self.folder / "log.new", self.folder / "format.properties"
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(self.folder / "log", ignore_errors=True)
        self._write(settings, new.name)
        identity = self._cluster_id or new_cluster_id()
        tool = ["kafka.tools.StorageTool", "format", "-t", identity, "-c", settings.name]
        done = subprocess.run([*self._java(), *tool], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (new / "meta.properties").exists():
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise KafkaError(f"Kafka cannot format {self.folder}: {said[-1]}")
        settings.unlink()
        os.replace(new, self.folder / "log")
