"""The processes of an attempt that have a run context, one on each of its workers, agree between two steps.

Rank 0's word holds for all, and what one of them refuses none takes over. They talk over a gloo group of their
own, so that nobody waits for a GPU; further processes that a script has started on its worker are not in it.
Not here: who is which rank (the agent says that), what other ranks leave out (follower.py).
"""

import sys
from collections.abc import Mapping
from typing import Any


class Ranks:
    """One of `members` processes; alone it has only its own word."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.rank = int(spec.get("rank") or 0)
        self.members = int(spec.get("members") or 1)
        self._world: Any = None
        self._group: Any = None

    @property
    def are_apart(self) -> bool:
        """Return whether there are others that cannot be asked: the script has not joined them, or not yet."""
        return self.members > 1 and self._joined() is None

    def agreed(self, stop: bool, step: int, news: list[Any]) -> tuple[bool, int, list[Any]]:
        """Return what rank 0 has given, on every rank. A collective: each rank calls it equally often."""
        group = self._joined()
        if group is None:
            return stop, step, news
        word = sys.modules["torch"].tensor([int(stop), step, len(news)])
        self._distributed.broadcast(word, src=0, group=group)
        told, step, count = word.tolist()
        if count:
            box = [news]
            self._distributed.broadcast_object_list(box, src=0, group=group)
            news = box[0]
        return bool(told), step, news

    def refusal(self, error: str | None) -> str | None:
        """Return why the first rank that refuses does so; None when all agree. A collective."""
        group = self._joined()
        if group is None:
            return error
        said: list[str | None] = [None] * self.members
        self._distributed.all_gather_object(said, error, group=group)
        refused = ((rank, text) for rank, text in enumerate(said) if text is not None)
        return next((text if rank == 0 else f"rank {rank}: {text}" for rank, text in refused), None)

    @property
    def _distributed(self) -> Any:
        return sys.modules.get("torch.distributed")

    def _joined(self) -> Any:
        if self.members < 2:
            return None
        distributed = self._distributed
        if distributed is None or not distributed.is_available() or not distributed.is_initialized():
            return None
        if self._world is not distributed.group.WORLD:
            self._world, self._group = distributed.group.WORLD, self._group_in(distributed)
        return self._group

    def _group_in(self, distributed: Any) -> Any:
        """Return a group of these processes: all, or the first of each worker, numbered as torchrun does."""
        size = distributed.get_world_size()
        if size == self.members:
            return distributed.new_group(backend="gloo")
        each, over = divmod(size, self.members)
        if not each or over or distributed.get_rank() != self.rank * each:
            return None
        first = list(range(0, size, each))
        return distributed.new_group(first, backend="gloo", use_local_synchronization=True)
