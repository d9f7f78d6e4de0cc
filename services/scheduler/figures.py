"""What the scheduler shows at `/metrics`, read from its store: the queue, workers, slots."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.scheduler.domain.tasks import free_slots
from services.scheduler.store import ALIVE, DRAINING, ENTRIES, LOST, STOPPED, all_of, workers
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.resource import Slots
from trainwright.runtime.telemetry.names import QUEUE_LENGTH, SLOT_CPUS, SLOT_GPUS, SLOT_MEMORY, WORKERS
from trainwright.runtime.telemetry.scraping import Reading
from trainwright.storage.document import DocumentStore


@dataclass(frozen=True, slots=True)
class Figures:
    """The scheduler's own gauges."""

    store: DocumentStore

    async def read(self) -> Sequence[Reading]:
        """Return the queue's length, workers by state, and what alive workers have and have free."""
        waiting = await self.store.count(ENTRIES.name, {"state": PlacementState.QUEUED})
        known = await workers(self.store)
        states = Counter(entry.state for entry in known)
        taken: dict[str, list[Slots]] = defaultdict(list)
        for found in await all_of(self.store, ENTRIES, {"state": PlacementState.ASSIGNED}):
            taken[found["worker_id"]].append(Slots.model_validate(found["placement"]["slots"]))
        alive = [entry.worker for entry in known if entry.state == ALIVE]
        total = [free_slots(worker, []) for worker in alive]
        free = [free_slots(worker, taken[worker.worker_id]) for worker in alive]
        return [
            Reading(QUEUE_LENGTH, (), waiting),
            *(Reading(WORKERS, (state,), states[state]) for state in (ALIVE, DRAINING, STOPPED, LOST)),
            *_slots("total", total),
            *_slots("free", free),
        ]


def _slots(state: str, slots: Sequence[Slots]) -> list[Reading]:
    return [
        Reading(SLOT_CPUS, (state,), sum(one.cpu for one in slots)),
        Reading(SLOT_MEMORY, (state,), sum(one.memory for one in slots)),
        Reading(SLOT_GPUS, (state,), sum(len(one.gpus) for one in slots)),
    ]
