"""What a declared strategy's quota can never admit, whatever runs and whatever workers there are. Pure.

Not here: its share of CPU cores and the memory of a whole GPU, which depend on the workers that there are: only
the scheduler knows those, and lets such a task wait with the reason.
"""

from trainwright.contracts.errors import FieldError
from trainwright.contracts.quota import Strategy
from trainwright.contracts.resource import ResourceRequirements

MIB = 2**20


def never_admitted(asks: ResourceRequirements, quota: Strategy, where: str = "") -> list[FieldError]:
    """Return the fields, below ``where``, by which a task asks for more than its quota can ever give."""
    problems, name = [], quota.strategy
    most = quota.max_workers
    if asks.workers > most:
        words = f"asks for {asks.workers} workers, and the quota of strategy {name!r} allows {most} at a time"
        fix = f"ask for {most} or fewer, or raise the quota: trainwright resource set-quota"
        problems.append(FieldError(path=f"{where}workers", message=f"{words}; {fix}"))
    wanted, limit = asks.workers * asks.gpu * asks.gpu_memory, quota.gpu_memory_mb * MIB
    if wanted > limit or (asks.gpu and not limit):
        gpus = asks.workers * asks.gpu
        sizes = f"{gpus} × {asks.gpu_memory / MIB:g} MB of GPU memory" if asks.gpu_memory else f"{gpus} GPUs"
        words = f"asks for {sizes}, and the quota of strategy {name!r} allows {quota.gpu_memory_mb} MB"
        fix = "ask for less, or raise the quota: trainwright resource set-quota"
        path = "gpu_memory" if asks.gpu_memory else "gpu"
        problems.append(FieldError(path=f"{where}{path}", message=f"{words}; {fix}"))
    return problems
