"""Large blobs up and down through S3, beside the bare minio client on the same server; and a process's memory.

    python -m tests.bench.bench_blobs [MiB]

The server is the one that `make minio` builds. Each measured part is a process of its own, so that its memory can
be told: 2048 shows that of 2 GiB.
"""

import asyncio
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.figures import say
from tests.minio_server import PASSWORD, USER, program, started
from trainwright.storage.blob import CHUNK
from trainwright.storage.s3 import S3Blobs, s3_client

PARTS = ("client up", "client down", "file up", "file down", "stream up", "stream down")
ROUNDS = 2


def measure(part: str, endpoint: str, bucket: str, folder: Path) -> None:
    """Do one part in this process; print its seconds, and by how many KiB its memory grew."""
    source, target, client = folder / "source", folder / "target", s3_client(endpoint, USER, PASSWORD)
    blobs = S3Blobs(client, bucket)
    asyncio.run(S3Blobs(client, bucket).check())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if part == "client up":
        client.fput_object(bucket, "bare", str(source))
    elif part == "client down":
        client.fget_object(bucket, "bare", str(target))
    else:
        asyncio.run(_through_the_port(part, blobs, source, target))
    took = time.perf_counter() - begun
    grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"{took} {grew}\n")


async def _through_the_port(part: str, blobs: S3Blobs, source: Path, target: Path) -> None:
    name = (source.parent / "sha256").read_text()
    if part == "file up":
        await blobs.write_file(source)
    elif part == "file down":
        await blobs.read_file(name, target)
    elif part == "stream up":
        await blobs.write(_chunks(source))
    else:
        async for _ in blobs.read(name):
            pass


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def main(size: int) -> None:
    """Measure, and print a line per figure."""
    if (found := program()) is None:
        sys.exit("no MinIO here: `make minio` builds it")
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as scratch:
        folder, block, digest = Path(scratch), os.urandom(CHUNK), hashlib.sha256()
        with (folder / "source").open("wb") as file:
            for _ in range(size):
                file.write(block)
                digest.update(block)
        (folder / "sha256").write_text(digest.hexdigest())
        with started(found, folder) as (server, _):
            rates: dict[str, float] = {}
            for _ in range(ROUNDS if size <= 1024 else 1):
                for part in PARTS:
                    rates[part] = max(rates.get(part, 0), _part(part, server.endpoint, folder, size))
        for way in ("file up", "file down", "stream up", "stream down"):
            peer = rates[f"client {way.rpartition(' ')[2]}"]
            say(f"{way} beside the bare client", f"{rates[way] / peer:.2f}", "≥ 0.5")


def _part(part: str, endpoint: str, folder: Path, size: int) -> float:
    command = [sys.executable, "-m", "tests.bench.bench_blobs", part, endpoint, "bench", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took, grew = map(float, done.stdout.split())
    goal = "" if part.startswith("client") else "< 100 MB"
    say(f"{part}, {size} MiB", f"{size / took:7.0f} MiB/s, memory grew by {grew / 1024:.0f} MiB", goal)
    return size / took


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PARTS:
        measure(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 1024)
