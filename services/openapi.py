"""The public API as a document: ``python -m services.openapi FILE`` writes what the gateway serves.

Nothing is started: the services are built and asked, in this process, without stores or Kafka. What would break
callers of what the file says now is not written over it.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from services.app import SERVICES
from trainwright.contracts import compatibility
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
        runtime.apps[name] = build_app(service, health, runtime.scrape, token=runtime.settings.internal_token)
    transport = httpx.ASGITransport(app=runtime.apps["gateway"])
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/openapi.json")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def text(found: dict[str, Any]) -> str:
    """Return the document as it is written to its file."""
    return json.dumps(found, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def refusals(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what callers of the old API would miss in the new one."""
    before, after = dict(_operations(old)), dict(_operations(new))
    found = [f"{name}: gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        found += [f"{name}: {what}" for what in _operation_breaks(before[name], after[name])]
    shapes, new_shapes = old["components"]["schemas"], new["components"]["schemas"]
    found += [f"{name}: the shape is gone" for name in shapes.keys() - new_shapes.keys()]
    for name in shapes.keys() & new_shapes.keys():
        found += compatibility.breaks(shapes[name], new_shapes[name])
    return sorted(found)


def _operations(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in found["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def _operation_breaks(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    before, after = ({(p["in"], p["name"]): p for p in each.get("parameters", [])} for each in (old, new))
    for place, name in sorted(before.keys() - after.keys()):
        yield f"the parameter {name} ({place}) is gone"
    for place, name in sorted(after):
        was_required = before.get((place, name), {}).get("required", False)
        if after[place, name].get("required", False) and not was_required:
            yield f"the parameter {name} ({place}) became required"
    for status in sorted(old["responses"].keys() - new["responses"].keys()):
        yield f"the answer {status} is gone"
    for status in sorted(old["responses"].keys() & new["responses"].keys()):
        kinds = [set(each["responses"][status].get("content", ())) for each in (old, new)]
        for kind in sorted(kinds[0] - kinds[1]):
            yield f"the answer {status} is not {kind} any more"
    body, new_body = old.get("requestBody", {}), new.get("requestBody", {})
    if new_body.get("required", False) and not body.get("required", False):
        yield "a body became required"
    for kind in sorted(set(body.get("content", ())) - set(new_body.get("content", ()))):
        yield f"a body of {kind} is not taken any more"
    for kind in sorted(set(body.get("content", ())) & set(new_body.get("content", ()))):
        if body["content"][kind].get("schema") != new_body["content"][kind].get("schema"):
            yield f"the body of {kind} has another shape"


def main(path: Path) -> int:
    """Write the document, or say why not; return the exit status."""
    new = asyncio.run(document())
    if path.exists() and (broken := refusals(json.loads(path.read_text()), new)):
        sys.stderr.write("not written; callers in the field could not follow:\n")
        sys.stderr.writelines(f"  {what}\n" for what in broken)
        return 1
    path.write_text(text(new))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
