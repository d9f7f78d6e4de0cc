"""A worker's place, for tests of what leads, watches and prepares attempts: a real store and blobs, no bus."""

from pathlib import Path

from services.trainer_worker import store
from services.trainer_worker.inventory import Trees
from services.trainer_worker.place import Workplace
from services.trainer_worker.publish import Publisher
from services.trainer_worker.settings import WorkerSettings
from tests.runtime_kit import FastClock
from trainwright.runtime.apply import DEAD_LETTERS
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.sqlite import SqliteStore


def place_in(folder: Path, clock: FastClock) -> Workplace:
    """Return a place whose attempts lie in a folder; the store there (`worker.db`) is not open yet."""
    documents = SqliteStore(folder / "worker.db", (*store.COLLECTIONS, DEAD_LETTERS))
    return Workplace(
        worker_id="worker-1",
        incarnation="now",
        folder=folder,
        agent_lock=folder / "lock",
        settings=WorkerSettings(),
        documents=documents,
        blobs=DirectoryBlobs(folder / "blobs"),
        publisher=Publisher("tests", Kafka(RuntimeSettings(kafka="127.0.0.1:1")), documents, clock),
        clock=clock,
        trees=Trees(),
    )
