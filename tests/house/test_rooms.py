"""The same rooms in every service, and maps that agree with the code."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from tests.house.house import ROOT
from trainwright.runtime.service import Runtime
from trainwright.runtime.settings import RuntimeSettings

SERVICES = sorted(path.parent for path in (ROOT / "services").glob("*/__init__.py"))
NAMES = [path.name for path in SERVICES]
REQUIRED = {"__init__.py", "__main__.py", "README.md", "service.py"}
RENAMED = {
    "domain.py": {"entities.py", "models.py", "model.py", "logic.py"},
    "handlers.py": {"usecases.py", "use_cases.py", "consumers.py", "subscribers.py", "listeners.py"},
    "store.py": {"repository.py", "repositories.py", "dao.py", "database.py", "db.py"},
    "routes.py": {"api.py", "endpoints.py", "router.py", "http.py", "controllers.py"},
    "settings.py": {"config.py", "configuration.py", "conf.py"},
    "service.py": {"app.py", "main.py", "bootstrap.py", "factory.py"},
    "reactions.py": {"subscriptions.py", "routing.py", "dispatch.py", "table.py"},
}
HEADINGS = ("Owns", "Consumes", "Emits", "HTTP", "When it breaks")
EVERYTHING = {
    "task",
    "queue",
    "command",
    "attempt",
    "worker",
    "pulse",
    "metric",
    "log",
    "result",
    "config",
    "resource",
}
READS_BY_ITSELF = {"gateway": EVERYTHING, "trainer_worker": {"command"}, "provisioner": set[str]()}
"""Read without a table of reactions: all, to pass it on; commands, by position instead of by group; nothing."""


def nouns(text: str) -> set[str]:
    """Return the nouns of the topics that a text names: in backticks, in full, or by an event of theirs."""
    from trainwright.contracts.topics import TOPICS

    words = set(re.findall(r"[\w.-]*\w", text)) | {f"`{word}`" for word in re.findall(r"`([\w-]+)`", text)}
    return {
        noun
        for topic in TOPICS
        if (noun := topic.name.split(".")[1]) != "dead"
        and words & {f"`{noun}`", topic.name, *(event.__name__ for event in topic.events)}
    }


def reads(service: str) -> set[str]:
    """Return the nouns of the topics that a service reacts to."""
    from trainwright.runtime.service import Runtime
    from trainwright.runtime.settings import RuntimeSettings

    if service in READS_BY_ITSELF:
        return READS_BY_ITSELF[service]
    runtime = Runtime(RuntimeSettings(store="sqlite:/nowhere", blobs="dir:/nowhere"))
    built = importlib.import_module(f"services.{service}").build_service(runtime)
    assert set(built.at_leisure) <= set(built.reactions)
    return {topic.name.split(".")[1] for topic in built.reactions}


def writes(service: str) -> set[str]:
    """Return the nouns of the topics that the topic table lets a service write, dead letters aside."""
    from trainwright.contracts.topics import TOPICS

    return {topic.name.split(".")[1] for topic in TOPICS if service in topic.writers} - {"dead"}


def cell(service: str, column: int) -> str:
    """Return a cell of the map of services."""
    rows = (ROOT / "services" / "README.md").read_text().splitlines()
    row = next(line for line in rows if line.startswith(f"| [{service}]({service}/)"))
    return row.split("|")[column]


@pytest.mark.parametrize("service", SERVICES, ids=NAMES)
def test_a_service_has_its_rooms_and_none_is_renamed(service: Path) -> None:
    there = {path.name for path in service.iterdir()}
    assert there >= REQUIRED
    for room, other_names in RENAMED.items():
        assert not there & other_names, f"{room} is the name of that room"


@pytest.mark.parametrize("service", SERVICES, ids=NAMES)
def test_a_service_says_in_one_sentence_what_it_owns(service: Path) -> None:
    docstring = ast.get_docstring(ast.parse((service / "__init__.py").read_text()))
    assert docstring is not None
    assert len(docstring.split("\n\n")[0].splitlines()) == 1


@pytest.mark.parametrize("service", SERVICES, ids=NAMES)
def test_a_services_readme_answers_the_five_questions(service: Path) -> None:
    text = (service / "README.md").read_text()
    missing = [name for name in HEADINGS if not re.search(rf"(?m)^(\*\*|#+ ){name}\b", text)]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_readme_and_map_name_the_topics_that_the_code_names(name: str) -> None:
    text = (ROOT / "services" / name / "README.md").read_text()
    consumes, emits = re.split(r"(?m)^(?:\*\*|#+ )(?:Consumes|Emits|HTTP)\b", text)[1:3]
    assert nouns(consumes) == reads(name), "README: consumes"
    assert nouns(emits) == writes(name), "README: emits"
    assert nouns(cell(name, 3)) == reads(name), "services/README.md: consumes"
    assert nouns(cell(name, 4)) == writes(name), "services/README.md: emits"


def test_one_table_names_every_service() -> None:
    from services.app import SERVICES as TABLE

    assert {*TABLE, "trainer_worker", "provisioner"} == set(NAMES)


def test_requests_are_answered_on_the_loop() -> None:
    """FastAPI calls what is not async, a class among it, on a thread of its pool: for nothing."""
    from services.app import SERVICES as TABLE

    runtime = Runtime(RuntimeSettings())
    routes = [route for build in TABLE.values() for route in _routes(build(runtime).router)]
    assert len(routes) > 50
    calls = {one.endpoint for one in routes} | {used.call for one in routes for used in one.dependant.dependencies}
    assert [call for call in calls if not inspect.iscoroutinefunction(call)] == []


def _routes(router: Any) -> Iterator[APIRoute]:
    for route in () if router is None else router.routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from _routes(getattr(route, "original_router", None))
