"""Quotas and submissions over real Kafka and HTTP: task service and scheduler as processes of their own."""

from pathlib import Path
from typing import Any

import httpx

from tests.harness import eventually, listening, services
from tests.integration.spoken_worker import Hand
from tests.integration.test_task_scheduler import submit, until_status
from trainwright.contracts.quota import StrategyChanged

QUOTA = "/resources/quotas/vision"
THREE = {"strategy": "vision", "resource_requirements": {"workers": 3}}


async def post(api: httpx.AsyncClient, tmp_path: Path, **fields: Any) -> httpx.Response:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    return await api.post(
        "/tasks", json={"config": {"recipe": "script", "parameters": {"path": str(script)}}, **fields}
    )


async def test_what_a_quota_never_admits_is_refused_once_it_is_heard_of_and_else_waits(
    own_kafka: str, tmp_path: Path
) -> None:
    async def answers(status: int, **fields: Any) -> httpx.Response:
        """Submit until a quota has reached the task service, or its end has."""

        async def asked() -> httpx.Response | None:
            answer = await post(api, tmp_path, **fields)
            return answer if answer.status_code == status else None

        found: httpx.Response = await eventually(asked, within=30, what=f"{status} for {fields}")
        return found

    with services(["scheduler"], own_kafka, tmp_path) as scheduler:
        await scheduler.ready()
        async with scheduler.client() as quotas, listening(own_kafka) as bus:
            assert (await quotas.put(QUOTA, json={"max_workers": 2})).status_code == 200
            await bus.tape.until(StrategyChanged)
            with services(["task"], own_kafka, tmp_path) as task:  # comes later, and reads it from the log
                await task.ready()
                async with task.client() as api:
                    refused = (await answers(409, **THREE)).json()
                    assert (refused["status"], refused["code"]) == (409, "resource_limit")
                    (wrong,) = refused["errors"]
                    assert wrong["path"] == "config.resource_requirements.workers"
                    assert "asks for 3 workers" in wrong["message"]
                    assert "allows 2 at a time; ask for 2 or fewer" in wrong["message"]
                    assert (await post(api, tmp_path, **{**THREE, "strategy": "other"})).status_code == 201
                    fits = await submit(api, tmp_path, strategy="vision", resource_requirements={"workers": 2})
                    more = await api.patch(f"/tasks/{fits}/resources", json={"workers": 3})
                    assert (more.status_code, more.json()["code"]) == (409, "resource_limit")
                    assert [one["path"] for one in more.json()["errors"]] == ["workers"]

                    assert (await quotas.delete(QUOTA)).status_code == 200
                    await answers(201, **THREE)
                    # and one that was accepted before its quota was lowered waits, and says why
                    early = await submit(api, tmp_path, **THREE)
                    assert (await quotas.put(QUOTA, json={"max_workers": 2})).status_code == 200
                    hands = [Hand(bus, cpus=4) for _ in range(3)]
                    for number, hand in enumerate(hands):
                        hand.worker_id = f"worker-aaaaaaaaaaa{number}"
                        await hand.register()
                    waits = await until_status(api, early, "pending", "waiting_quota")
                    assert "never fits the quota of strategy vision" in waits["reason"]
