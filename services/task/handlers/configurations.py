"""Stored configurations: every change is a new version, written with its text and the event that says so."""

from dataclasses import dataclass
from typing import Any

from services.task import domain
from services.task.store import find_config, get_config, get_config_version, save_config, text_of
from trainwright.contracts.base import Event
from trainwright.contracts.configuration import (
    Configuration,
    ConfigurationCreated,
    ConfigurationDeleted,
    ConfigurationUpdated,
    DocumentFormat,
)
from trainwright.contracts.errors import NotFound, VersionConflict
from trainwright.documents.changes import same
from trainwright.documents.editing import edited
from trainwright.documents.reading import read, written
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Transaction

Made = tuple[Configuration, list[Event]]


@dataclass(frozen=True, slots=True)
class Source:
    """A document as it was sent: what it says, and the text that says it, if it came as text."""

    config: dict[str, Any]
    text: str | None = None
    format: DocumentFormat = DocumentFormat.JSON


async def create_config(
    source: Source, *, name: str | None, actor: str, comment: str, tx: Transaction, clock: Clock
) -> Made:
    """Store a document as the first version of a configuration."""
    text = source.text if source.text is not None else written(source.config, source.format)
    config = domain.stored(
        clock.new_id("config"),
        source.config,
        name=name,
        format=source.format,
        actor=actor,
        comment=comment,
        now=clock.now(),
    )
    await save_config(tx, config, text)
    return config, [ConfigurationCreated(configuration=config)]


async def replace_config(
    config_id: str,
    source: Source,
    *,
    name: str | None,
    expected: int | None,
    actor: str,
    comment: str,
    tx: Transaction,
    clock: Clock,
) -> Made:
    """Store a document as the next version; the one that is there when nothing differs.

    Raises:
        NotFound: There is no such configuration.
        VersionConflict: Its newest version is not the expected one.
    """
    before = await _expected(tx, config_id, expected)
    old_text = await text_of(tx, config_id, before.version)
    if source.text is not None:
        text, format = source.text, source.format
    else:
        text, format = edited(old_text, before.format, source.config), before.format
    if text == old_text and format == before.format and name in (None, before.name):
        return before, []
    config = domain.replaced(
        before, source.config, name=name, format=format, actor=actor, comment=comment, now=clock.now()
    )
    await save_config(tx, config, text)
    return config, [ConfigurationUpdated(configuration=config)]


async def restore_config(
    config_id: str, version: int, *, expected: int | None, actor: str, comment: str, tx: Transaction, clock: Clock
) -> Made:
    """Bring an old version back as the newest one, also of a deleted configuration.

    Raises:
        NotFound: There is no such configuration or version.
        VersionConflict: Its newest version is not the expected one.
    """
    before = await find_config(tx, config_id)
    if before is None:
        raise NotFound(f"there is no configuration {config_id[:80]!r}")
    _check_expected(before, expected)
    old = await get_config_version(tx, config_id, version)
    text = await text_of(tx, config_id, version)
    unchanged = before.deleted_at is None and same(old.config, before.config) and old.name == before.name
    if unchanged and text == await text_of(tx, config_id, before.version):
        return before, []
    config = domain.restored(before, old, actor=actor, comment=comment, now=clock.now())
    await save_config(tx, config, text)
    return config, [ConfigurationUpdated(configuration=config)]


async def delete_config(
    config_id: str, *, expected: int | None, actor: str, tx: Transaction, clock: Clock
) -> Made:
    """Delete a configuration: lists leave it out, its versions and the tasks made from it stay readable.

    Raises:
        NotFound: There is no such configuration.
        VersionConflict: Its newest version is not the expected one.
    """
    before = await _expected(tx, config_id, expected)
    text = await text_of(tx, config_id, before.version)
    config = domain.deleted(before, actor=actor, comment="deleted", now=clock.now())
    await save_config(tx, config, text)
    return config, [ConfigurationDeleted(configuration=config)]


async def document_of(tx: Transaction, config_id: str, version: int | None) -> Configuration:
    """Return the version of a configuration that a task is to be made from: the newest, or the one named.

    Raises:
        NotFound: There is none.
    """
    return await get_config(tx, config_id) if version is None else await get_config_version(tx, config_id, version)


def read_source(text: str, format: str) -> Source:
    """Return a document that came as text.

    Raises:
        NotADocument: It is none.
    """
    return Source(read(text, format), text, DocumentFormat(format))


async def _expected(tx: Transaction, config_id: str, expected: int | None) -> Configuration:
    before = await get_config(tx, config_id)
    _check_expected(before, expected)
    return before


def _check_expected(before: Configuration, expected: int | None) -> None:
    if expected is not None and before.version != expected:
        raise VersionConflict(
            f"the configuration {before.config_id} is at version {before.version} (by {before.actor}), not at"
            f" {expected}: read it again, or see what changed with"
            f" GET /configs/{before.config_id}/diff?from={expected}&to={before.version}"
        )
