"""What the gateway answers itself: dead letters of all services, found and replayed where they lie."""

import asyncio
from typing import Annotated
from urllib.parse import quote

import httpx
from fastapi import APIRouter, Query, Response

from services.gateway.domain import OFFSETS
from services.gateway.upstream import Upstreams
from trainwright.contracts.base import nearest
from trainwright.contracts.dead import DeadLetter, DeadLetterList
from trainwright.contracts.errors import FieldError, InvalidInput, NotFound, Unavailable
from trainwright.runtime.http import PREFIX


def build_router(upstreams: Upstreams) -> APIRouter:
    """Return the routes of dead letters."""
    router = APIRouter(prefix="/dead", tags=["dead letters"])

    @router.get("", summary="Records that services could not apply, newest first")
    async def list_dead(
        consumer: Annotated[str | None, Query(description="Only those of one service.")] = None,
    ) -> DeadLetterList:
        services = list(OFFSETS) if not consumer else [_known(consumer)]
        lists = await asyncio.gather(*(_letters(upstreams, service) for service in services))
        letters = [letter for found in lists for letter in found]
        return DeadLetterList(dead_letters=sorted(letters, key=lambda letter: letter.time, reverse=True))

    @router.get("/{dead_id}", summary="One dead letter", response_model=DeadLetter)
    async def show_dead(dead_id: str) -> Response:
        service = await _holder(upstreams, dead_id)
        return _passed_on(await upstreams.fetch(service, _path(service, dead_id)))

    @router.post("/{dead_id}/replay", summary="Apply a dead letter again", response_model=DeadLetter)
    async def replay_dead(dead_id: str) -> Response:
        service = await _holder(upstreams, dead_id)
        path = f"{_path(service, dead_id)}/replay"
        return _passed_on(await upstreams.fetch(service, path, method="POST"))

    @router.get("/{consumer}/{dead_id}", summary="One dead letter of a service", response_model=DeadLetter)
    async def show_dead_of(consumer: str, dead_id: str) -> Response:
        return _passed_on(await upstreams.fetch(_known(consumer), _path(consumer, dead_id)))

    @router.post(
        "/{consumer}/{dead_id}/replay", summary="Apply a dead letter of a service again", response_model=DeadLetter
    )
    async def replay_dead_of(consumer: str, dead_id: str) -> Response:
        path = f"{_path(_known(consumer), dead_id)}/replay"
        return _passed_on(await upstreams.fetch(consumer, path, method="POST"))

    return router


async def _letters(upstreams: Upstreams, service: str) -> list[DeadLetter]:
    response = await upstreams.fetch(service, f"{PREFIX}/dead/{service}")
    if response.status_code != 200:
        raise Unavailable(f"the dead letters of {service} cannot be read; ask with ?consumer= for another's")
    return DeadLetterList.model_validate_json(response.content).dead_letters


async def _holder(upstreams: Upstreams, dead_id: str) -> str:
    answers = await asyncio.gather(*(upstreams.fetch(service, _path(service, dead_id)) for service in OFFSETS))
    for service, answer in zip(OFFSETS, answers, strict=True):
        if answer.status_code == 200:
            return service
    silent = [service for service, answer in zip(OFFSETS, answers, strict=True) if answer.status_code >= 500]
    if silent:
        raise Unavailable(f"no dead letter {dead_id!r} was found, but {', '.join(silent)} cannot be asked now")
    raise NotFound(f"no service has a dead letter {dead_id!r}")


def _path(service: str, dead_id: str) -> str:
    return f"{PREFIX}/dead/{service}/{quote(dead_id, safe='')}"


def _known(service: str) -> str:
    if service not in OFFSETS:
        message = f"no service is called {service!r}{nearest(service, OFFSETS)}; there are {', '.join(OFFSETS)}"
        raise InvalidInput(message, [FieldError(path="consumer", message=message)])
    return service


def _passed_on(answer: httpx.Response) -> Response:
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
