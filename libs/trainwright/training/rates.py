"""Learning rates: what optimisers were made with, and what another one makes of a state that was loaded.

An optimiser's saved state brings the old rate back; a run whose optimiser is made with another one than when it
was saved means that one. Known by its attributes: torch is not imported. Not here: who decides on a rate.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rates = list[list[float]]
"""The learning rate of each parameter group of each optimiser, before any schedule."""


def rates_of(optimizers: Iterable[Any]) -> Rates:
    """Return the learning rates that optimisers were made with."""
    return [[float(group.get("initial_lr", group["lr"])) for group in one.param_groups] for one in optimizers]


def scaled(value: float, old: float, new: float) -> float:
    """Return a rate that is made of another one, when that becomes `new`: exactly `new` where it was just that."""
    return new if value == old else value * (new / old) if old else value


def change_rates(optimizers: Sequence[Any], schedulers: Iterable[Any], saved: Rates, asked: Rates) -> None:
    """Scale what was loaded, where another learning rate is asked for now than when it was saved.

    The schedule keeps its shape. ValueError when the parameter groups are others.
    """
    if saved == asked:
        return
    then, now = [len(groups) for groups in saved], [len(groups) for groups in asked]
    if then != now:
        raise ValueError(
            f"the checkpoint's optimisers have {then} parameter groups, this run's {now}; make them as then"
        )
    pairs = [list(zip(*groups, strict=True)) for groups in zip(saved, asked, strict=True)]
    for optimizer, of_groups in zip(optimizers, pairs, strict=True):
        for group, (old, new) in zip(optimizer.param_groups, of_groups, strict=True):
            for name in ("lr", "initial_lr", "max_lr", "min_lr"):
                if name in group:
                    group[name] = _scaled(group[name], old, new)
    for scheduler in schedulers:
        _scale(
            scheduler,
            {id(one.param_groups): of_groups for one, of_groups in zip(optimizers, pairs, strict=True)},
        )


def _scaled(value: Any, old: float, new: float) -> Any:
    # A rate that was computed from another one, as 0.1 × lr, may differ by its last bit: that is no change.
    return value if math.isclose(old, new, rel_tol=1e-9) else scaled(value, old, new)


def _scale(scheduler: Any, pairs: Mapping[int, list[tuple[float, float]]]) -> None:
    for inner in getattr(scheduler, "_schedulers", []):
        _scale(inner, pairs)
    optimizer = getattr(scheduler, "optimizer", None)
    of_groups = pairs.get(id(getattr(optimizer, "param_groups", None)))
    for name in ("base_lrs", "_last_lr"):
        values = getattr(scheduler, name, None)
        if of_groups is not None and values is not None and len(values) == len(of_groups):
            setattr(
                scheduler, name, [_scaled(value, *pair) for value, pair in zip(values, of_groups, strict=True)]
            )
