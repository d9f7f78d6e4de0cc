"""A collector that is dead, or takes a connection and never answers: nothing else notices."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.harness import API, services

POSTS = 60


@contextmanager
def dead_collector(*, listens: bool) -> Iterator[str]:
    """Give an address where nobody listens, or where somebody does but says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if not listens:
            silent.close()
        yield url


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
async def test_requests_events_and_the_end_do_not_wait_for_a_dead_collector(
    kafka: str, tmp_path: Path, listens: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text("pass")
    config = {"recipe": "script", "name": "any", "parameters": {"path": str(script)}}
    with dead_collector(listens=listens) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with services(["task"], kafka, tmp_path, **env) as task:
            await task.ready()
            async with task.client() as api:
                posts = [api.post("/tasks", json={"config": config}) for _ in range(POSTS)]
                answers = await asyncio.gather(*posts)
            assert {answer.status_code for answer in answers} == {201}
            await task.ready()
            async with httpx.AsyncClient(base_url=task.url, timeout=90) as anybody:
                figures = (await anybody.get("/metrics")).text
            assert re.search(rf'_request_seconds_count{{.*"POST",route="{API}/tasks",.*}} {POSTS}.0\n', figures)
            assert 'trainwright_spans_total{outcome="exported"} 0.0' in figures
            assert task.stop() == 0
        assert task.log().count("opentelemetry") == 0
