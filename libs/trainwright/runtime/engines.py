"""Which engine a setting names: SQLite files or MongoDB, a folder or S3. The only place that chooses.

An engine's packages are imported when it is chosen: a laptop needs neither MongoDB's driver nor S3's client.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainwright.runtime.environment import Unfit
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.blob import BlobStore
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.document import Collection, DocumentStore
from trainwright.storage.records import Records
from trainwright.storage.series import Series
from trainwright.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from trainwright.storage.mongo import MongoStore


def documents(settings: RuntimeSettings, name: str, collections: Sequence[Collection]) -> DocumentStore:
    """Return the store of a service; nothing is connected yet."""
    return _mongo(settings, name, collections) if settings.is_mongodb else _sqlite(settings, name, collections)


def series(
    settings: RuntimeSettings, name: str, collections: Sequence[Collection]
) -> tuple[DocumentStore, Series]:
    """Return a store, and the series that share its transactions."""
    if settings.is_mongodb:
        from trainwright.storage import mongo_series

        mongo = _mongo(settings, name, (*collections, *mongo_series.COLLECTIONS))
        return mongo, mongo_series.MongoSeries(mongo)
    from trainwright.storage import sqlite_series

    store = _sqlite(settings, name, collections, sqlite_series.SCHEMA)
    return store, sqlite_series.SqliteSeries(store)


def records(
    settings: RuntimeSettings, name: str, collections: Sequence[Collection]
) -> tuple[DocumentStore, Records]:
    """Return a store, and the log records that share its transactions."""
    if settings.is_mongodb:
        from trainwright.storage import mongo_records

        mongo = _mongo(settings, name, (*collections, *mongo_records.COLLECTIONS))
        return mongo, mongo_records.MongoRecords(mongo)
    from trainwright.storage import sqlite_records

    store = _sqlite(settings, name, collections, sqlite_records.SCHEMA)
    return store, sqlite_records.SqliteRecords(store)


def blobs(settings: RuntimeSettings) -> BlobStore:
    """Return the blob store; nothing is connected yet.

    Raises:
        Unfit: S3's address is none.
    """
    scheme, _, where = settings.blobs.partition(":")
    if scheme != "s3":
        return DirectoryBlobs(Path(where).absolute())
    from trainwright.storage.s3 import S3Blobs, s3_client

    keys = settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
    try:
        client = s3_client(settings.s3_url, *keys, region=settings.s3_region)
    except ValueError as error:
        raise Unfit(f"TRAINWRIGHT_S3_URL: {error}") from error
    return S3Blobs(client, where)


def kafka_in_words(settings: RuntimeSettings) -> str:
    """Return where the log is, and the setting that says so."""
    return f"Kafka at {settings.kafka} (TRAINWRIGHT_KAFKA)"


def store_in_words(settings: RuntimeSettings) -> str:
    """Return where services keep their documents, without a password, and the setting that says so."""
    where = f"MongoDB at {without_password(settings.store)}" if settings.is_mongodb else settings.store
    return f"{where} (TRAINWRIGHT_STORE)"


def blobs_in_words(settings: RuntimeSettings) -> str:
    """Return where blobs are, and the settings that say so."""
    scheme, _, bucket = settings.blobs.partition(":")
    if scheme != "s3":
        return f"{settings.blobs} (TRAINWRIGHT_BLOBS)"
    return (
        f"S3 at {without_password(settings.s3_url)}, bucket {bucket} (TRAINWRIGHT_S3_URL; its keys are"
        " TRAINWRIGHT_S3_ACCESS_KEY and TRAINWRIGHT_S3_SECRET_KEY)"
    )


def without_password(url: str) -> str:
    """Return an address without who asks there and what follows its path."""
    found = urlsplit(url)
    return f"{found.scheme}://{found.netloc.rpartition('@')[2]}"


def _sqlite(
    settings: RuntimeSettings, name: str, collections: Sequence[Collection], schema: str = ""
) -> SqliteStore:
    folder = Path(settings.store.removeprefix("sqlite:"))
    return SqliteStore(folder / f"{name}.db", collections, schema)


def _mongo(settings: RuntimeSettings, name: str, collections: Sequence[Collection]) -> "MongoStore":
    from trainwright.storage.mongo import MongoStore

    return MongoStore(settings.store, f"{settings.database}_{name}", collections)
