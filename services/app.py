"""Every service, in one table: the all-in-one process and the single ones read the same list.

The trainer-worker is not in it: it runs on GPU nodes, as a process of its own, with a store of its own.
"""

from services import gateway, log, monitor, result, scheduler, task
from trainwright.runtime.service import Builder

SERVICES: dict[str, Builder] = {
    "task": task.build_service,
    "scheduler": scheduler.build_service,
    "monitor": monitor.build_service,
    "result": result.build_service,
    "log": log.build_service,
    "gateway": gateway.build_service,
}
