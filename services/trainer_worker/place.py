"""Where an attempt is led: who this worker is, and what leading takes."""

from dataclasses import dataclass, field
from pathlib import Path

from services.trainer_worker.inventory import Trees
from services.trainer_worker.publish import Publisher
from services.trainer_worker.settings import WorkerSettings
from trainwright.contracts.resource import ResourceUsage
from trainwright.runtime.clock import Clock
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore

SOURCE = "trainer_worker"


@dataclass(frozen=True, slots=True)
class Workplace:
    """What leading an attempt takes."""

    worker_id: str
    incarnation: str
    folder: Path
    agent_lock: Path
    settings: WorkerSettings
    documents: DocumentStore
    blobs: BlobStore
    publisher: Publisher
    clock: Clock
    trees: Trees
    gpus: dict[int, ResourceUsage] = field(default_factory=dict)
    """What each GPU was last seen to do; empty while none is known."""
