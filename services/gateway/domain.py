"""Whose is which path, and what a key is. Pure."""

import hashlib

from trainwright.contracts.base import Contract, Timestamp
from trainwright.contracts.errors import TrainwrightError

GATEWAY = "gateway"

ROUTES: tuple[tuple[str, str], ...] = (
    ("/tasks/{task_id}/metrics", "monitor"),
    ("/tasks/{task_id}/monitor", "monitor"),
    ("/tasks/{task_id}/logs", "log"),
    ("/tasks/{task_id}/report", "result"),
    ("/tasks/{task_id}/checkpoints", "result"),
    ("/tasks/{task_id}/why", "scheduler"),
    ("/tasks/…", "task"),
    ("/files/…", "task"),
    ("/configs/…", "task"),
    ("/models/…", "result"),
    ("/workers/…", "scheduler"),
    ("/resources/…", "scheduler"),
    ("/dead/…", GATEWAY),
    ("/events", GATEWAY),
    ("/webhooks/…", GATEWAY),
)
"""Path below the API's prefix, and the service that owns it; the first that fits. ``…`` is whatever follows."""

OFFSETS = {"task": 1, "scheduler": 2, "monitor": 3, "result": 4, "log": 5}
"""The services behind the gateway, and how far from its port theirs is when no other address is set."""


ADMIN_ONLY = ("/webhooks/…",)
"""Paths whose events leave the platform: only for keys whose role says so."""
ADMIN = "admin"


class Forbidden(TrainwrightError):
    """The key is good, the way in is not."""

    status, code, title = 403, "forbidden", "Forbidden"


class ApiKey(Contract):
    """A key that lets its bearer in; the key itself is kept nowhere, only its SHA-256."""

    name: str
    sha256: str
    role: str = "admin"
    created_at: Timestamp


def fingerprint(key: str) -> str:
    """Return what is stored of a key. Keys are long and random: a fast hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def owner_of(path: str) -> str | None:
    """Return the service that owns a path below the API's prefix."""
    parts = path.split("/")
    return next((service for pattern, service in ROUTES if _fits(pattern.split("/"), parts)), None)


def may(role: str, path: str) -> bool:
    """Return whether a key of a role may use a path below the API's prefix."""
    return role == ADMIN or not any(_fits(pattern.split("/"), path.split("/")) for pattern in ADMIN_ONLY)


def _fits(pattern: list[str], parts: list[str]) -> bool:
    if pattern[-1] == "…":
        pattern, parts = pattern[:-1], parts[: len(pattern) - 1]
    return len(parts) == len(pattern) and all(
        bool(part) if wanted.startswith("{") else part == wanted
        for wanted, part in zip(pattern, parts, strict=True)
    )
