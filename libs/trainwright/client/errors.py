"""Errors of the client: the tree of `trainwright.contracts.errors`, and what only a client can meet.

TrainwrightError
├── (the class whose code the answer names)
├── Refused             an error answer of an unknown code; carries its own status and code
└── Unavailable
    └── Unreachable     nothing answers at the address
"""

from collections.abc import Iterator

import httpx
from pydantic import ValidationError

from trainwright.contracts.errors import Problem, TrainwrightError, Unavailable


class Unreachable(Unavailable):
    """Nothing answers at the address."""

    code, title = "unreachable", "Unreachable"


class Refused(TrainwrightError):
    """An error answer that this client knows no class for; `status` and `code` are the answer's."""

    code, title = "refused", "Refused"


def error_from(response: httpx.Response) -> TrainwrightError:
    """Return the error that an error answer stands for, whether or not its body is problem+json."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text.strip().splitlines()
        detail = f"{response.request.method} {response.url.path} was answered {response.status_code}"
        detail += f": {text[0][:300]}" if text else ""
        problem = Problem(title=response.reason_phrase, status=response.status_code, detail=detail, code="refused")
    return _class_for(problem)(problem.detail, list(problem.errors))


def describe(error: TrainwrightError) -> str:
    """Return the error in one line: what is wrong, and for wrong fields where and how."""
    news = [item for item in error.errors if item.message not in error.detail]
    return "; ".join(
        [error.detail, *(f"{item.path}: {item.message}" if item.path else item.message for item in news)]
    )


def _class_for(problem: Problem) -> type[TrainwrightError]:
    known = {cls.code: cls for cls in _tree(TrainwrightError)}
    cls = known.get(problem.code)
    if cls is not None and cls.status == problem.status:
        return cls
    base = next((c for c in _tree(TrainwrightError) if c.status == problem.status), Refused)
    members = {"status": problem.status, "code": problem.code, "title": problem.title}
    return type("Refused", (base,), members)


def _tree(root: type[TrainwrightError]) -> Iterator[type[TrainwrightError]]:
    for cls in root.__subclasses__():
        if cls.__name__ != "Refused" or cls is Refused:
            yield cls
            yield from _tree(cls)
