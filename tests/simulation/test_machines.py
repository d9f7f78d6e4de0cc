"""Task, scheduler and worker live as the model says, whatever they hear, how often, and in which order.

`MACHINE_EXAMPLES=2000` has more of it (`make simulate`); a failure is shrunk to the fewest steps.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.simulation.machines import Machine, SchedulerMachine, TaskMachine
from tests.simulation.mutations import mutated
from tests.simulation.worker_machine import WorkerMachine

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "25"))
QUICKLY = settings(
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=EXAMPLES == 25,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [TaskMachine, SchedulerMachine, WorkerMachine], ids=lambda one: one.__name__)
def test_a_service_lives_as_the_model_says(machine: type[Machine]) -> None:
    run_state_machine_as_test(machine, settings=settings(QUICKLY, max_examples=EXAMPLES))


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("no_fence_in_the_task", TaskMachine),
        ("placements_keep_their_version", SchedulerMachine),
        ("a_worker_runs_any_attempt", WorkerMachine),
    ],
)
def test_a_planted_bug_breaks_the_model(name: str, machine: type[Machine]) -> None:
    found = settings(QUICKLY, max_examples=300, phases=[Phase.generate])  # nobody reads how: it is not shrunk
    with mutated(name), pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)
