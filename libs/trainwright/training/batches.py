"""The batches of a torch DataLoader as a part of a run: shuffled anew in each pass, taken up again in its midst.

    batches = Batches(DataLoader(data, batch_size=64, shuffle=True))
    for step in run.steps(1000, model=model, optimizer=optimizer, batches=batches):
        inputs, labels = next(batches)

A loader draws its order, and a seed for its workers, when a pass begins. So a resumed one begins that pass again
with the generators as they were then, passes over the places that were taken (nothing is loaded for them), and
sets the generators as they are now.
Not here: random numbers drawn in the loader's own processes, which begin anew; frameworks' loops (adapters/).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from trainwright.training.rng import random_state, restore_random


class Batches:
    """Hand out a loader's batches without end; `epoch` counts the whole passes.

    TypeError when the loader has no places to go on from: an IterableDataset, or `batch_size=None`.
    """

    def __init__(self, loader: "DataLoader[Any]") -> None:
        sampler = loader.batch_sampler
        if isinstance(loader.dataset, IterableDataset) or sampler is None:
            raise TypeError(
                "a loader without a batch_sampler has no place to go on from: give it a map-style dataset"
            )
        self.epoch = 0
        self._loader = loader
        self._place = 0
        self._begun: dict[str, Any] | None = None
        self._iterator: Iterator[Any] | None = None
        holders = (loader, loader.sampler, sampler)
        found = [getattr(holder, "generator", None) for holder in holders]
        self._own = list({id(one): one for one in found if isinstance(one, torch.Generator)}.values())
        self._later = _Later(sampler)
        # A loader refuses a new sampler once it is made.
        object.__setattr__(loader, "batch_sampler", self._later)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch; ValueError when the loader has none at all."""
        if self._iterator is None:
            self._iterator = self._go_on()
        batch = next(self._iterator, self)
        if batch is self:
            self.epoch, self._place = self.epoch + 1, 0
            self._iterator = self._begin()
            batch = next(self._iterator, self)
        if batch is self:
            raise ValueError("the loader has no batches: its dataset is smaller than a batch, or empty")
        self._place += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""
        return {"epoch": self.epoch, "place": self._place, "begun": self._begun, "own": self._states()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with the next batch."""
        self.epoch, self._place, self._begun = state["epoch"], state["place"], state["begun"]
        self._iterator = None
        self._set(state["own"])

    def _begin(self) -> Iterator[Any]:
        self._begun = self._random()
        return iter(self._loader)

    def _go_on(self) -> Iterator[Any]:
        if self._begun is None:
            return self._begin()
        now = self._random()
        self._later.skip, self._later.then = self._place, lambda: self._restore(now)
        self._restore(self._begun)
        return iter(self._loader)

    def _random(self) -> dict[str, Any]:
        return {"own": self._states(), **random_state()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._set(state["own"])
        restore_random(state)

    def _states(self) -> list[torch.Tensor]:
        return [one.get_state() for one in self._own]

    def _set(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._own, states, strict=True):
            generator.set_state(state)


class _Later(BatchSampler):
    """Hand out another sampler's batches from place `skip` on, and call `then` before the first of them."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.skip = 0
        self.then = _nothing

    def __iter__(self) -> Iterator[Any]:
        skip, then = self.skip, self.then
        self.skip, self.then = 0, _nothing
        batches = iter(self.inner)
        for _ in range(skip):
            next(batches, None)
        then()
        yield from batches

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # while it is unpickled there is none
            raise AttributeError(name)
        return getattr(self.inner, name)


def _nothing() -> None:
    return None
