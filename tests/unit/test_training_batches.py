"""A loader's batches go on in the midst of a pass as if nothing had been, whatever draws random numbers."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from trainwright.training.batches import Batches
from trainwright.training.rng import random_state, restore_random

ROWS, SIZE, TAKEN = 10, 4, 8


class Rows(Dataset[torch.Tensor]):
    def __init__(self, noisy: bool) -> None:
        self._noisy = noisy

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.tensor(row) + (torch.rand(()) + random.random() + np.random.rand() if self._noisy else 0.0)


def loader(kind: str) -> "DataLoader[torch.Tensor]":
    noisy: dict[str, Any] = {"dataset": Rows(kind != "workers"), "batch_size": SIZE}
    if kind == "own generator":
        return DataLoader(**noisy, shuffle=True, generator=torch.Generator().manual_seed(3))
    if kind == "sampler's generator":
        chosen = RandomSampler(range(ROWS), replacement=True, generator=torch.Generator().manual_seed(3))
        return DataLoader(**noisy, sampler=chosen)
    if kind == "weighted":
        return DataLoader(**noisy, sampler=WeightedRandomSampler([1.0 + row for row in range(ROWS)], ROWS))
    return DataLoader(**noisy, shuffle=True, num_workers=int(kind == "workers"), drop_last=kind == "cut")


def take(batches: Batches, count: int) -> list[list[float]]:
    """Return what a training would see: the batches, and the numbers that it draws between them."""
    return [[*next(batches).tolist(), float(torch.rand(()))] for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        ("plain", range(TAKEN)),
        ("cut", range(TAKEN)),
        ("own generator", range(TAKEN)),
        ("sampler's generator", range(TAKEN)),
        ("weighted", range(TAKEN)),
        ("workers", (1, 3)),
    ],
)
def test_a_pass_is_taken_up_again_in_its_midst(kind: str, cuts: range) -> None:
    for cut in cuts:
        torch.manual_seed(7), random.seed(7), np.random.seed(7)
        whole = Batches(loader(kind))
        seen = take(whole, cut)
        saved, drawn = copy.deepcopy(whole.state_dict()), random_state()
        rest = take(whole, TAKEN - cut)
        torch.manual_seed(99)
        again = Batches(loader(kind))
        take(again, 2)
        again.load_state_dict(saved)
        restore_random(drawn)
        assert take(again, TAKEN - cut) == rest, f"after {cut} batches"
        assert again.epoch == whole.epoch == (TAKEN - 1) // len(loader(kind))
        assert kind == "workers" or len({str(one) for one in seen + rest}) == TAKEN


def test_what_has_no_places_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            yield 1

    with pytest.raises(TypeError, match="map-style"):
        Batches(DataLoader(Stream()))
    with pytest.raises(TypeError, match="map-style"):
        Batches(DataLoader(Rows(False), batch_size=None))
    with pytest.raises(ValueError, match="no batches"):
        next(Batches(DataLoader(Rows(False), batch_size=ROWS + 1, drop_last=True)))
