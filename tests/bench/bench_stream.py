"""How long a metric takes from Kafka to 100 WebSocket readers, against a bare WebSocket in the same run.

    python -m tests.bench.bench_stream [--readers 100] [--rate 20] [--seconds 15] [--slow 20] [--apart]

The whole path: a batch of one point goes to Kafka as a worker sends it, the monitor keeps it and answers its
streams, the gateway relays them. Readers are a process of their own. Then the same with slow readers beside them,
which ask for a long history and take one byte a second.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from tests.bench.figures import bench, cpu_of, say, spread
from tests.harness import API, Bus, ServiceProcess, listening, services
from tests.monitor_desk import Story
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.topics import METRIC

ROOT = Path(__file__).resolve().parents[2]
ALL = ["task", "scheduler", "monitor", "result", "log", "gateway"]
HISTORY = 20_000
"""Lines that lie before a slow reader: more than the connections between hold."""


async def read(url: str, key: str, count: int, seconds: float) -> None:
    """Read with so many clients for some seconds; print each line's age when it came, as JSON."""
    waits: list[float] = []
    steps: list[set[int]] = [set() for _ in range(count)]

    async def one(number: int) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with connect(url, additional_headers=headers, proxy=None, compression=None) as client:
            await client.send('{"action": "subscribe", "metrics": ["sent"]}')
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            async for line in client:
                now = time.perf_counter()
                said = json.loads(line)
                if "metrics" in said and said["step"] >= 0:
                    waits.append(now - said["metrics"]["sent"])
                    steps[number].add(said["step"])

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    whole = sum(len(each) == max(each) - min(each) + 1 for each in steps if each)
    sys.stdout.write(json.dumps({"waits": waits, "whole": whole}) + "\n")


@asynccontextmanager
async def readers(url: str, key: str, options: argparse.Namespace) -> AsyncIterator[subprocess.Popen[str]]:
    """Start the clients' process; it is connected once the block begins."""
    arguments = ["--read", url, "--key", key, "--readers", str(options.readers), "--seconds"]
    command = [sys.executable, "-m", "tests.bench.bench_stream", *arguments, str(options.seconds + 4)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        for _ in range(options.readers):
            line = await asyncio.to_thread(process.stdout.readline)
            assert line == "ready\n", "a reader could not connect"
        yield process


async def result(what: str, process: subprocess.Popen[str], used: str, goal: str = "") -> None:
    """Print what the clients saw."""
    assert process.stdout is not None
    found = json.loads((await asyncio.to_thread(process.stdout.readlines))[-1])
    say(what, spread(found["waits"]), goal)
    say("", f"{len(found['waits']):,} lines; {found['whole']} readers without a gap{used}")


async def bare(options: argparse.Namespace) -> None:
    """Send the same lines from a WebSocket server that does nothing else."""
    there: set[ServerConnection] = set()

    async def hold(client: ServerConnection) -> None:
        await client.recv()
        there.add(client)
        await client.wait_closed()

    async with serve(hold, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with readers(f"ws://127.0.0.1:{port}", "none", options) as process:
            await asyncio.sleep(1)
            for step in range(int(options.rate * options.seconds)):
                line = {"step": step, "metrics": {"sent": time.perf_counter()}, "attempt": 1, "seq": step}
                broadcast(there, json.dumps(line))
                await asyncio.sleep(1 / options.rate)
            await result("peer: a bare WebSocket server", process, "")


def slow_reader(url: str, key: str) -> socket.socket:
    """Open a stream by hand, with a small window, and ask for everything."""
    parts = urlsplit(url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((parts.hostname or "", parts.port or 0))
    nonce = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer {key}\r\n\r\n"
    )
    client.sendall(head.encode())
    wish = b'{"action": "subscribe", "cursor": 0}'
    client.sendall(bytes([0x81, 0x80 | len(wish), 0, 0, 0, 0]) + wish)
    return client


async def trickle(clients: Sequence[socket.socket]) -> None:
    """Take one byte a second from each."""
    while True:
        for client in clients:
            client.recv(1)
        await asyncio.sleep(1)


async def send(bus: Bus, task_id: str, options: argparse.Namespace) -> None:
    """Emit one point at a time, at the rate."""
    begun = time.perf_counter()
    for step in range(int(options.rate * options.seconds)):
        values = {"sent": time.perf_counter(), "loss": 0.5, "lr": 0.001}
        point = MetricPoint(HISTORY + step, time.time(), step, values)
        bus.background(bus.say(MetricBatch(task_id=task_id, attempt=1, points=[point])))
        await asyncio.sleep(max(0.0, begun + (step + 1) / options.rate - time.perf_counter()))


async def disk(folder: Path, waits: list[float]) -> None:
    """Note how long the disk takes to keep a few bytes: the monitor commits before anybody is told."""
    with (folder / "sync").open("ab") as file:
        while True:
            started = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
            waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.2)


async def plain(bootstrap: str, waits: list[float]) -> None:
    """Note how old each point is when a plain Kafka client has it."""
    async with AIOKafkaConsumer(METRIC.name, bootstrap_servers=bootstrap) as consumer:
        async for record in consumer:
            for _, _, _, values in json.loads(record.value)["points"]:
                if "sent" in values:
                    waits.append(time.perf_counter() - values["sent"])


async def one_round(door: ServiceProcess, key: str, bus: Bus, slow: int, options: argparse.Namespace) -> None:
    """Measure the path for one task, beside so many slow readers of it."""
    story = Story(bus)
    await story.created()
    for start in range(0, HISTORY, 1000):
        points = [MetricPoint(n, 0.0, -1, {"old": 0.5}) for n in range(start, start + 1000)]
        await bus.say(MetricBatch(task_id=story.task_id, attempt=1, points=points))
    await asyncio.sleep(2)
    url = f"{door.url.replace('http', 'ws')}{API}/tasks/{story.task_id}/monitor"
    clients = [slow_reader(url, key) for _ in range(slow)]
    trickling = asyncio.create_task(trickle(clients))
    async with readers(url, key, options) as process:
        await asyncio.sleep(1)
        before, begun = cpu_of(door.pid), time.monotonic()
        await send(bus, story.task_id, options)
        used = 100 * (cpu_of(door.pid) - before) / (time.monotonic() - begun)
        beside = f", {slow} slow ones beside" if slow else ""
        where = f"; {'/'.join(door.names)} {used:.0f} % of a core"
        await result(f"Kafka → monitor → gateway → client{beside}", process, where, "p99 ≤ 100 ms, better 30")
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    for client in clients:
        client.close()


async def whole_path(
    door: ServiceProcess, key: str, kafka: str, folder: Path, options: argparse.Namespace
) -> None:
    """Measure the path through monitor and gateway, alone and beside slow readers."""
    await door.ready()
    async with listening(kafka) as bus:
        syncs: list[float] = []
        arrivals: list[float] = []
        bus.background(disk(folder, syncs))
        bus.background(plain(kafka, arrivals))
        for slow in (0, options.slow):
            await one_round(door, key, bus, slow, options)
        say("floor: Kafka → a plain client", spread(arrivals))
        say("floor: the disk keeps a few bytes", spread(syncs))


def main(options: argparse.Namespace) -> None:
    """Measure."""
    say(f"{options.readers} readers, {options.rate:g} lines a second each, {options.seconds:g} s", "")
    asyncio.run(bare(options))
    with bench() as (broker, folder), ExitStack() as stack:
        key = secrets.token_urlsafe(24)
        (folder / "key").write_text(key)
        env = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(folder / "key")}
        names = ALL
        if options.apart:
            parts = {
                name: stack.enter_context(services([name], broker.bootstrap, folder))
                for name in ("monitor", "task")
            }
            env |= {f"TRAINWRIGHT_{name.upper()}_URL": part.url for name, part in parts.items()}
            names = ["scheduler", "result", "log", "gateway"]
        door = stack.enter_context(services(names, broker.bootstrap, folder, **env))
        asyncio.run(whole_path(door, key, broker.bootstrap, folder, options))
    asyncio.run(bare(options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--slow", type=int, default=20)
    parser.add_argument("--apart", action="store_true", help="Monitor and gateway as processes of their own.")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        asyncio.run(read(given.read, given.key, given.readers, given.seconds))
    else:
        main(given)
