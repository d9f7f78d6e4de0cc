"""Several processes that train together agree on when to stop: all hear rank 0's answer at the same step.

Not here: who is which rank (the environment says that), what other ranks leave out (follower.py).
"""

import sys
from typing import Any

_world: Any = None
_group: Any = None


def agreed(stop: bool) -> bool:
    """Return rank 0's answer on every rank of an initialised process group; a process alone has its own.

    A collective: each rank calls it equally often. It goes over a gloo group, so that nobody waits for a GPU.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return stop
    if distributed.get_world_size() == 1:
        return stop
    global _world, _group
    if _world is not distributed.group.WORLD:
        _world, _group = distributed.group.WORLD, distributed.new_group(backend="gloo")
    torch = sys.modules["torch"]
    answer = torch.tensor([int(stop)], dtype=torch.uint8)
    distributed.broadcast(answer, src=0, group=_group)
    return bool(answer.item())
