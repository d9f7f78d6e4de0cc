"""How long the routes of configurations take, with many stored: alone and asked by many at once.

    python tests/bench/bench_configs.py [configurations] [versions] [requests]

All services run in one process and the gateway is asked. The floor is the gateway's answer to a question that
needs no store, asked in turn with each route: on a machine that others use both are late together. Of the many
each asks about once a second, as people and their scripts do.
"""

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx

from services.app import SERVICES
from tests.bench.figures import bench, rate, say, spread
from tests.harness import API, ServiceProcess, services
from trainwright.recipes.templates import template

Ask = Callable[[], Awaitable[httpx.Response]]
CALLERS = 100
WRITERS = 20
GOAL = "p99 < 100 ms"


async def filled(client: httpx.AsyncClient, configurations: int, versions: int) -> list[str]:
    """Store configurations of the commented template, and change each some times; return their ids."""
    text = template("forecast").text
    gate = asyncio.Semaphore(WRITERS)

    async def one(number: int) -> str:
        async with gate:
            body = {"text": text, "name": f"bench-{number}"}
            config_id = str((await client.post(f"{API}/configs", json=body)).json()["config_id"])
            for version in range(1, versions):
                changed = text.replace("horizon: 8", f"horizon: {8 + version}")
                answer = await client.put(f"{API}/configs/{config_id}", json={"text": changed})
                assert answer.json()["version"] == version + 1, answer.text
            return config_id

    return list(await asyncio.gather(*map(one, range(configurations))))


async def waits_of(ask: Ask, floor: Ask, count: int, callers: int) -> tuple[list[float], list[float]]:
    """Ask so many times, and the floor's question in turn; return how long the answers of both took."""
    chance = random.Random(1)
    waits: tuple[list[float], list[float]] = ([], [])

    async def caller() -> None:
        for _ in range(count // callers):
            for question, found in zip((ask, floor), waits, strict=True):
                await asyncio.sleep(chance.uniform(0, 1) if callers > 1 else 0)
                started = time.perf_counter()
                answer = await question()
                found.append(time.perf_counter() - started)
                assert answer.status_code in (200, 201, 204), answer.text

    await asyncio.gather(*(caller() for _ in range(callers)))
    return waits


def routes_of(client: httpx.AsyncClient, ids: list[str], versions: int) -> dict[str, Ask]:
    """Return what is asked, by the words for it."""
    chance, text = random.Random(2), template("forecast").text

    def some() -> str:
        return f"{API}/configs/{chance.choice(ids)}"

    def version() -> int:
        return chance.randint(1, versions)

    async def change() -> httpx.Response:
        changes = {"changes": {"parameters": {"seed": chance.randint(1, 2**30)}}}
        answer = await client.patch(some(), json=changes)
        return await client.patch(some(), json=changes) if answer.status_code == 409 else answer

    return {
        "POST /configs": lambda: client.post(f"{API}/configs", json={"text": text}),
        "POST /configs/validate": lambda: client.post(f"{API}/configs/validate", json={"text": text}),
        "GET /configs?limit=50": lambda: client.get(f"{API}/configs?limit=50"),
        "GET /configs/{id}": lambda: client.get(some()),
        "PATCH /configs/{id}, comments kept": change,
        "PUT /configs/{id}": lambda: client.put(
            some(), json={"text": text.replace("seed: 1", f"seed: {chance.randint(1, 2**30)}")}
        ),
        "GET /configs/{id}/versions": lambda: client.get(f"{some()}/versions"),
        "GET /configs/{id}/versions/{n}": lambda: client.get(f"{some()}/versions/{version()}"),
        "GET /configs/{id}/diff": lambda: client.get(f"{some()}/diff?from={version()}&to={version()}"),
        "GET /configs/{id}/export": lambda: client.get(f"{some()}/export"),
        "POST /configs/{id}/restore": lambda: client.post(f"{some()}/restore", json={"version": version()}),
        "GET /configs/templates/forecast": lambda: client.get(f"{API}/configs/templates/forecast"),
    }


async def measure(run: ServiceProcess, key: str, configurations: int, versions: int, count: int) -> None:
    """Fill the store, then ask."""
    limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=run.url, headers=headers, limits=limits, timeout=60) as client:
        began = time.perf_counter()
        ids = await filled(client, configurations, versions)
        rate("versions written", configurations * versions, time.perf_counter() - began)

        async def live() -> httpx.Response:
            return await client.get("/health/live")

        for what, ask in routes_of(client, ids, versions).items():
            for callers, share in ((1, 4), (CALLERS, 1)):
                found, floor = await waits_of(ask, live, count // share, callers)
                many = "alone" if callers == 1 else f"{callers} callers"
                say(f"{what}, {many}", spread(found), GOAL)
                say("    floor meanwhile: GET /health/live", spread(floor))


async def main(configurations: int = 1000, versions: int = 10, count: int = 400) -> None:
    """Start everything and measure."""
    with bench() as (broker, folder):
        key = folder / "api-key"
        key.write_text("key-of-the-bench\n")
        names = [*[name for name in SERVICES if name != "gateway"], "gateway"]
        with services(names, broker.bootstrap, folder, TRAINWRIGHT_ADMIN_KEY_FILE=str(key)) as run:
            await run.ready()
            await measure(run, key.read_text().strip(), configurations, versions, count)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
