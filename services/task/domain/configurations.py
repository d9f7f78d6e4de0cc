"""Stored configurations: every change is a new version of the same document. Pure."""

from datetime import datetime
from typing import Any

from trainwright.contracts.configuration import Configuration, DocumentFormat
from trainwright.documents.changes import content_hash


def stored(
    config_id: str,
    config: dict[str, Any],
    *,
    name: str | None,
    format: DocumentFormat,
    actor: str,
    comment: str,
    now: datetime,
) -> Configuration:
    """Return a new configuration."""
    return Configuration(
        config_id=config_id,
        version=1,
        name=name or str(config.get("name") or config["recipe"]),
        recipe=str(config["recipe"]),
        format=format,
        content_hash=content_hash(config),
        actor=actor,
        comment=comment,
        created_at=now,
        updated_at=now,
        config=config,
    )


def replaced(
    before: Configuration, config: dict[str, Any], *, name: str | None, format: DocumentFormat, **said: Any
) -> Configuration:
    """Return the next version with another document; ``said`` are ``actor``, ``comment`` and ``now``."""
    return _next(
        before,
        name=name or before.name,
        recipe=str(config["recipe"]),
        format=format,
        content_hash=content_hash(config),
        config=config,
        restored_from=None,
        **said,
    )


def restored(before: Configuration, old: Configuration, **said: Any) -> Configuration:
    """Return the next version with the document of an old one; a deleted configuration is back."""
    kept = {name: getattr(old, name) for name in ("name", "recipe", "format", "content_hash", "config")}
    return _next(before, **kept, restored_from=old.version, deleted_at=None, **said)


def deleted(before: Configuration, **said: Any) -> Configuration:
    """Return the version that says that a configuration is deleted."""
    return _next(before, restored_from=None, deleted_at=said["now"], **said)


def _next(before: Configuration, *, now: datetime, **fields: Any) -> Configuration:
    return before.model_copy(update={**fields, "version": before.version + 1, "updated_at": now})
