"""What the task service shows at `/metrics`, read from its store."""

from collections.abc import Sequence

from services.task.store import TASKS as COLLECTION
from trainwright.contracts.task import TaskStatus
from trainwright.runtime.telemetry.names import TASKS
from trainwright.runtime.telemetry.scraping import Reading
from trainwright.storage.document import Reader


async def tasks_by_status(reader: Reader) -> Sequence[Reading]:
    """Return how many tasks there are in each status."""
    return [
        Reading(TASKS, (status.value,), await reader.count(COLLECTION.name, {"status": status.value}))
        for status in TaskStatus
    ]
