"""The public API as a document: ``python -m services.openapi FILE`` writes what the gateway serves.

Nothing is started: the services are built and asked, in this process, without stores or Kafka.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

from services.app import SERVICES
from trainwright.runtime.health import Health
from trainwright.runtime.http import build_app
from trainwright.runtime.relay import Relay
from trainwright.runtime.service import Runtime
from trainwright.runtime.settings import RuntimeSettings

ALL_HERE = {f"{name}_url": None for name in SERVICES}


async def document() -> dict[str, Any]:
    """Return the OpenAPI document of the whole platform."""
    settings = {"store": "sqlite:nowhere", "blobs": "dir:nowhere", "internal_token": "only here", **ALL_HERE}
    runtime = Runtime(RuntimeSettings.model_validate(settings))
    for name, build in SERVICES.items():
        service = build(runtime)
        health = Health(name, service.store, Relay(name, service.store, runtime.kafka, runtime.clock), [])
        runtime.apps[name] = build_app(service, health, token=runtime.settings.internal_token)
    transport = httpx.ASGITransport(app=runtime.apps["gateway"])
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/openapi.json")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def text(found: dict[str, Any]) -> str:
    """Return the document as it is written to its file."""
    return json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(asyncio.run(document())))
