"""A recipe by name, and the example scripts, run by a real agent."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.integration.worker_harness import Agent, agent_at, new_task
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.command import RunAttempt
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
SALES = EXAMPLES / "data" / "walmart_sales_weekly.csv"
DATA = {"path": str(SALES), "time": "Date", "target": "Weekly_Sales", "product": "Dept", "store": "Store"}


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        await made.start()
        yield made


async def run_recipe(agent: Agent, task: str, recipe: str, parameters: dict[str, object]) -> None:
    worker = agent.worker
    command = RunAttempt(
        worker_id=worker.worker_id,
        incarnation=worker.incarnation,
        task_id=task,
        attempt=1,
        name=task,
        config=TaskConfig(recipe=recipe, parameters=parameters, data=DATA),
        slots=Slots(cpu=1),
    )
    await agent.bus.say(command)


async def test_the_forecaster_trains_and_its_summary_is_in_the_bundle(agent: Agent) -> None:
    task = new_task()
    parameters: dict[str, object] = {"mode": "store", "max_steps": 20, "origins": 1, "seed": 1}
    await run_recipe(agent, task, "forecast", parameters)
    ended = await agent.until_ended(task, within=150)
    assert ended.attempt.outcome is Outcome.COMPLETED, ended.attempt.failure
    manifest = await agent.manifest(ended)
    result = manifest.metadata["result"]
    assert isinstance(result, dict)
    assert {"identity", "description", "metrics"} <= set(result)
    await eventually(lambda: len(agent.points(task)) >= 20, within=10, what="its points")


async def test_a_wrong_parameter_and_an_unknown_recipe_are_the_users_to_mend(agent: Agent) -> None:
    wrong, unknown = new_task(), new_task()
    await run_recipe(agent, wrong, "forecast", {"horizon": "tomorrow"})
    await run_recipe(agent, unknown, "clairvoyance", {})
    for task, word in ((wrong, "horizon"), (unknown, "clairvoyance")):
        failure = (await agent.until_ended(task)).attempt.failure
        assert failure is not None
        assert (failure.failure_class, word in failure.message) == (FailureClass.USER_ERROR, True), failure


async def test_the_example_script_learns_from_real_sales(agent: Agent) -> None:
    task = new_task()
    code = (EXAMPLES / "scripts" / "softmax_numpy.py").read_text()
    await agent.run(task, code, parameters={"data": str(SALES), "steps": 100})
    ended = await agent.until_ended(task)
    assert ended.attempt.outcome is Outcome.COMPLETED, ended.attempt.failure
    assert ended.attempt.latest_metrics["accuracy"] > 0.6
    assert "weights.npz" in (await agent.manifest(ended)).files
