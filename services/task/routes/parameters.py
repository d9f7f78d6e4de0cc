"""Parameters of a task while it exists: what holds, what may change, every change and what became of it."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from services.task import domain, handlers
from services.task.routes.asking import done
from services.task.routes.transitions import settled
from services.task.store import get_task, parameter_changes_of
from trainwright.contracts.parameters import ChangeState, ParameterLog, ParametersAnswer
from trainwright.contracts.task import TaskDocument
from trainwright.contracts.task_config import SetParameters
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Calling
from trainwright.storage.document import DocumentStore

TaskId = Annotated[str, Path(max_length=100)]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the run's answer.")]
UNDER_WAY: dict[int | str, dict[str, Any]] = {
    202: {"model": ParametersAnswer, "description": "A run is still to take it over, or it is to be confirmed"}
}


def parameter_routes(store: DocumentStore, clock: Clock) -> APIRouter:
    """Return the routes of parameters."""
    router = APIRouter(tags=["parameters"])

    @router.get("/tasks/{task_id}/parameters", summary="What holds, what may change, and every change so far")
    async def show_parameters(task_id: TaskId) -> ParameterLog:
        task = await get_task(store, task_id)
        changes = await parameter_changes_of(store, task_id)
        applied = [one.revision for one in changes if one.state is ChangeState.APPLIED]
        return ParameterLog(
            task_id=task_id,
            parameters=domain.current(task),
            hot=task.config.hot,
            config_hash=domain.hash_of(task),
            revision=task.parameter_revision,
            applied_revision=max(applied, default=0),
            changes=changes,
        )

    @router.patch(
        "/tasks/{task_id}/parameters",
        summary="Change hot parameters of a task; its run takes them over at its next step",
        responses=UNDER_WAY,
    )
    async def set_parameters(
        task_id: TaskId, request: SetParameters, caller: Calling, response: Response, wait: Wait = 0
    ) -> ParametersAnswer:
        change = partial(handlers.set_parameters, task_id, request, actor=caller.actor)
        outcome = await done(change, store=store, caller=caller, clock=clock)
        answer = outcome.answer
        if answer.state == ChangeState.REQUESTED:

            def is_answered(task: TaskDocument) -> bool:
                return handlers.answer_of(task, answer.revision).state != ChangeState.REQUESTED

            task = await settled(outcome.task, is_answered, wait, store=store, clock=clock)
            answer = handlers.answer_of(task, answer.revision)
        under_way = answer.state in (ChangeState.REQUESTED, "confirmation_needed")
        response.status_code = 202 if under_way else 200
        return answer

    return router
