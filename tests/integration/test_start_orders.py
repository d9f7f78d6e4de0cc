"""Parts that are missing, or refuse who asks: each process says what it waits for, and goes on when it comes."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import ServiceProcess, eventually, services
from tests.integration.real_parts import KEY, person, worker
from tests.minio_server import PASSWORD, USER, program, started
from tests.mongo_server import stand_in
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess

NAMES = ("task", "scheduler", "gateway")


async def asked(process: ServiceProcess, path: str) -> tuple[int, Any]:
    """Return what a process says of its health; 0 before it listens."""
    async with httpx.AsyncClient(timeout=10) as client:
        try:
            answer = await client.get(f"{process.url}/health/{path}")
        except httpx.TransportError:
            return 0, {}
    return answer.status_code, answer.json()


async def waits_for(process: ServiceProcess, *parts: str) -> None:
    """Wait until every service in a process says that it waits for these parts, and for nothing else."""
    found: dict[str, Any] = {}

    async def does() -> bool:
        _, answer = await asked(process, "ready")
        found.update({each["service"]: each for each in answer.get("services", []) if each["service"] in NAMES})
        return found.keys() == set(NAMES) and all(
            each["status"] == ("down" if parts else "ok")
            and len(each["waiting_for"]) == len(parts)
            and all(any(part in text for text in each["waiting_for"]) for part in parts)
            for each in found.values()
        )

    try:
        await eventually(does, within=60, what=f"{parts or 'nothing'} to be waited for")
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from error


async def test_services_first_then_their_store_then_kafka(tmp_path: Path) -> None:
    kafka_port, controller_port, mongo_port = free_ports(3)
    kafka, mongo = f"127.0.0.1:{kafka_port}", f"127.0.0.1:{mongo_port}"
    (tmp_path / "api-key").write_text(KEY)
    env = {
        "TRAINWRIGHT_STORE": f"mongodb://{mongo}",
        "TRAINWRIGHT_BLOBS": f"dir:{tmp_path}/blobs",
        "TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"),
    }
    of_worker = {**env, "TRAINWRIGHT_KAFKA": kafka}
    with services(NAMES, kafka, tmp_path, **env) as plane, worker(of_worker, tmp_path / "worker") as agent:
        await waits_for(plane, f"MongoDB at mongodb://{mongo} (TRAINWRIGHT_STORE)", f"Kafka at {kafka}")
        assert await asked(plane, "live") == (200, {"status": "ok"})
        async with person(plane) as api:
            answer = await api.get("/tasks")
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
        with stand_in(tmp_path / "mongo", mongo_port):
            await waits_for(plane, f"Kafka at {kafka} (TRAINWRIGHT_KAFKA)")
            async with person(plane) as api:
                assert (await api.get("/tasks")).status_code == 200
            with KafkaProcess(tmp_path / "kafka", port=kafka_port, controller_port=controller_port):
                await waits_for(plane)

                async def has_worker() -> bool:
                    async with person(plane) as api:
                        return [w["state"] for w in (await api.get("/workers")).json()["workers"]] == ["alive"]

                await eventually(has_worker, within=60, what="the worker that waited too")
        assert agent.poll() is None
        lines = [line for line in plane.log().splitlines() if "waiting for Kafka" in line]
        assert 1 <= len(lines) <= 20, "said at once, and then now and then"


async def test_a_store_that_refuses_its_keys_is_named_with_them(kafka: str, tmp_path: Path) -> None:
    found, (port,) = program(), free_ports(1)
    if found is None:
        pytest.skip("no MinIO to start: `make minio` builds it")
    env = {
        "TRAINWRIGHT_BLOBS": "s3:files",
        "TRAINWRIGHT_S3_URL": f"http://127.0.0.1:{port}",
        "TRAINWRIGHT_S3_ACCESS_KEY": USER,
        "TRAINWRIGHT_S3_SECRET_KEY": PASSWORD,
    }
    with services(NAMES, kafka, tmp_path, **env) as plane:
        with started(found, tmp_path / "minio", port, "another-password"):
            await waits_for(
                plane, "TRAINWRIGHT_S3_SECRET_KEY): the bucket files cannot be used: SignatureDoesNotMatch"
            )
            assert PASSWORD not in plane.log()
        await waits_for(plane, "S3 at http://127.0.0.1")
        with started(found, tmp_path / "minio", port, PASSWORD):
            await waits_for(plane)
