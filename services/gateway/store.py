"""The gateway's keys."""

from services.gateway.domain import ApiKey
from trainwright.storage.document import Collection, DocumentStore, Reader

KEYS = Collection("api_keys", indexes=("sha256",))


async def find_key(store: Reader, sha256: str) -> ApiKey | None:
    """Return the key with a fingerprint."""
    page = await store.find(KEYS.name, {"sha256": sha256}, limit=1)
    return ApiKey.model_validate(page.items[0]) if page.items else None


async def named_key(store: Reader, name: str) -> ApiKey | None:
    """Return the key of a name."""
    document = await store.get(KEYS.name, name)
    return None if document is None else ApiKey.model_validate(document)


async def save_key(store: DocumentStore, key: ApiKey) -> None:
    """Keep a key in place of the one of the same name."""
    async with store.transaction() as tx:
        await tx.put(KEYS.name, key.name, key.model_dump(mode="json"))
