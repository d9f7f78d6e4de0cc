"""What the adapters share: a place in a data loader, what a frozen model is.

Not here: what the frameworks look like (huggingface.py, lightning.py).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from trainwright.training.rng import random_state, restore_random

BEGIN = -1
"""The place before the first batch of a pass, where a sampler draws its order."""


class CountedBatches(BatchSampler):
    """Hand out another sampler's batches, from any place of a pass, with the random states that held there.

    Shuffling, and whatever draws random numbers while a batch is made in this process, then goes on as if nothing
    had happened. `begun` is the generators' state at the start of the pass; `asked`, before the last batch, is
    noted for a reader that is one batch `ahead` of the training.
    """

    def __init__(self, inner: Any, *, ahead: bool) -> None:
        self.inner = inner
        self._ahead = ahead
        self.begun: dict[str, Any] | None = None
        self.asked: dict[str, Any] | None = None
        self._skip = 0
        self._states: Mapping[int, dict[str, Any]] = {}

    def go_on(self, skip: int, states: Mapping[int, dict[str, Any]]) -> None:
        """Start the next pass at batch `skip`, and set the generators before the batches named in `states`."""
        self._skip, self._states = skip, states

    def __iter__(self) -> Iterator[Any]:
        skip, states = self._skip, self._states
        self._skip, self._states = 0, {}
        if BEGIN in states:
            restore_random(states[BEGIN])
        self.begun = random_state()
        for place, batch in enumerate(self.inner):
            if place < skip:
                continue
            if place in states:
                restore_random(states[place])
            if self._ahead:
                self.asked = random_state()
            yield batch

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is unpickled there is none
            raise AttributeError(name)
        return getattr(self.inner, name)


def counted(loader: Any, *, ahead: bool) -> CountedBatches | None:
    """Make `loader` hand out counted batches; None when its dataset has no places to start from."""
    sampler = getattr(loader, "batch_sampler", None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or sampler is None:
        return None
    if isinstance(sampler, CountedBatches):
        return sampler
    batches = CountedBatches(sampler, ahead=ahead)
    # accelerate's loaders are shells around the real one, and a loader refuses a new sampler once it is made.
    object.__setattr__(getattr(loader, "base_dataloader", loader), "batch_sampler", batches)
    return batches


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return the sha256 of tensors with their names, shapes and types; reads every byte once."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat: Any = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()
