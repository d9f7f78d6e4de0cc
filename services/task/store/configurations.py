"""Stored configurations: the newest version by id, and every version with its text."""

from typing import Any

from trainwright.contracts.configuration import Configuration, ConfigurationEntry
from trainwright.contracts.errors import NotFound
from trainwright.storage.document import Collection, Range, Reader, Transaction

CONFIGS = Collection("configs", indexes=("listed_at", "recipe", "name"))
"""The newest version by id; `listed_at` is when it was made, null of a deleted one: one index finds and sorts."""
CONFIG_VERSIONS = Collection("config_versions", indexes=("config_id", "number"))

Entries = tuple[list[ConfigurationEntry], int, str | None]


async def save_config(tx: Transaction, config: Configuration, text: str) -> None:
    """Write the next version of a configuration, beside the ones before.

    Raises:
        VersionConflict: Another version was written meanwhile.
    """
    document = config.model_dump(mode="json")
    listed = {**document, "listed_at": document["updated_at"] if config.deleted_at is None else None}
    await tx.put(CONFIGS.name, config.config_id, listed, expect=config.version - 1)
    of_version = {**document, "number": config.version, "text": text}
    await tx.put(CONFIG_VERSIONS.name, _key(config.config_id, config.version), of_version)


async def find_config(reader: Reader, config_id: str) -> Configuration | None:
    """Return the newest version of a configuration, also of a deleted one; or None."""
    found = await reader.get(CONFIGS.name, config_id)
    return None if found is None else Configuration.model_validate(found)


async def get_config(reader: Reader, config_id: str) -> Configuration:
    """Return the newest version of a configuration.

    Raises:
        NotFound: There is none of this name, or it was deleted.
    """
    config = await find_config(reader, config_id)
    if config is None:
        raise NotFound(f"there is no configuration {config_id[:80]!r}")
    if config.deleted_at is not None:
        raise NotFound(
            f"the configuration {config_id} was deleted by {config.actor}; its versions are still there:"
            f" bring one back with POST /configs/{config_id}/restore"
        )
    return config


async def get_config_version(reader: Reader, config_id: str, version: int) -> Configuration:
    """Return one version of a configuration, also of a deleted one.

    Raises:
        NotFound: There is none of this number.
    """
    return Configuration.model_validate(await _version(reader, config_id, version))


async def text_of(reader: Reader, config_id: str, version: int) -> str:
    """Return a version's text as it was written.

    Raises:
        NotFound: There is none of this number.
    """
    return str((await _version(reader, config_id, version))["text"])


async def config_page(reader: Reader, where: dict[str, Any], limit: int, cursor: str | None) -> Entries:
    """Return configurations that are not deleted, the newest change first; their number; the next page."""
    where = {**where, "listed_at": Range(gt="")}
    page = await reader.find(CONFIGS.name, where, sort="-listed_at", limit=limit, cursor=cursor)
    entries = [ConfigurationEntry.model_validate(item) for item in page.items]
    return entries, await reader.count(CONFIGS.name, where), page.next_cursor


async def version_page(reader: Reader, config_id: str, limit: int, cursor: str | None) -> Entries:
    """Return the versions of a configuration, the newest first; their number; the next page."""
    where = {"config_id": config_id}
    page = await reader.find(CONFIG_VERSIONS.name, where, sort="-number", limit=limit, cursor=cursor)
    entries = [ConfigurationEntry.model_validate(item) for item in page.items]
    return entries, await reader.count(CONFIG_VERSIONS.name, where), page.next_cursor


async def _version(reader: Reader, config_id: str, version: int) -> dict[str, Any]:
    found = await reader.get(CONFIG_VERSIONS.name, _key(config_id, version))
    if found is None:
        if await reader.get(CONFIGS.name, config_id) is None:
            raise NotFound(f"there is no configuration {config_id[:80]!r}")
        raise NotFound(f"the configuration {config_id[:80]!r} has no version {version}")
    return found


def _key(config_id: str, version: int) -> str:
    return f"{config_id}/{version:010d}"
