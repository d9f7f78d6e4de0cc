"""Our loop: nothing random is carried from step to step, and a step that found no memory is taken again.

Everything random inside a step is a function of (seed, step), so a checkpoint is {model, optimiser, scheduler,
journal} and resuming is exact. The journal says from which step on which value held. A step is computed in
micro-batches; one that finds no memory is redone with halves of them before the optimiser has seen anything of it.

    loop = Loop(seed=1, batch=64, micro_batch=run.parameters.get("micro_batch"), learning_rate=1e-3)
    for step in run.steps(1000, model=model, optimizer=optimizer, loop=loop):
        def compute(parts: list[slice]) -> float:
            rows = torch.randint(len(x), (64,))
            loss = 0.0
            for part in parts:  # each weighed by its share, so that they add up to the whole batch
                share = F.mse_loss(model(x[rows[part]]), y[rows[part]], reduction="sum") / 64
                share.backward()
                loss += float(share.detach())
            return loss
        loss = loop.gradients(step, [model], compute)
        optimizer.param_groups[0]["lr"] = loop.value("learning_rate", step)
        optimizer.step()

With dropout, smaller micro-batches draw other masks: a repaired run is not the unsplit one, it equals, bit for
bit, the run that has the same journal.
Not here: writing checkpoints (the run context), learning rate schedules, memory that is missing in the
optimiser's own step, which may be half done (the run fails and is repaired from a checkpoint).
"""

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

MICRO_BATCH = "micro_batch"
GIVEN = "given"
"""Why an entry is in the journal: the run's parameters say so."""
CHANGED = "changed while it trained"
"""… or somebody has changed them meanwhile."""

_T = TypeVar("_T")
_NO_MEMORY = ("out of memory", "allocate memory", "cublas_status_alloc_failed", "bad_alloc")

Value = int | float | str
Entry = dict[str, Any]
"""From `step` on `name` has `value`; it `was` another one before; `why`."""


class Diverged(ArithmeticError):
    """The loss or the gradient is no number any more; `step` is the first one that was not well."""

    def __init__(self, what: str, value: float, step: int) -> None:
        super().__init__(f"{what} became {value} at step {step}; try a lower learning_rate")
        self.step = step


class Loop:
    """Give one training its random numbers, its micro-batches and its journal; a part of its checkpoints.

    `seed` and `batch` (rows of a step) are what the run is. `micro_batch` (rows computed at a time; all when None)
    and `values` (a learning rate; what decides the bits: torch's version, the device) are what this process was
    given. Where a checkpoint says that something else was given, the new value holds from the next step on.
    `journal` starts the run with what held in another one.

    Raises:
        ValueError: A batch of less than one row.
    """

    def __init__(
        self,
        *,
        seed: int,
        batch: int,
        micro_batch: int | None = None,
        journal: Iterable[Entry] | None = None,
        **values: Value,
    ) -> None:
        if batch < 1 or (micro_batch is not None and micro_batch < 1):
            raise ValueError(f"batch ({batch}) and micro_batch ({micro_batch}) count rows: at least 1")
        self.seed = seed
        self.batch = batch
        self._given: dict[str, Value] = {MICRO_BATCH: min(micro_batch or batch, batch), **values}
        self._step = 0
        self.journal = (
            [{"step": 0, "name": name, "value": value, "why": GIVEN} for name, value in self._given.items()]
            if journal is None
            else [dict(entry) for entry in journal]
        )

    def value(self, name: str, step: int) -> Any:
        """Return what holds for `name` at `step`.

        Raises:
            KeyError: The run was given no value of this name.
        """
        held = [entry["value"] for entry in self._entries(name) if entry["step"] <= step]
        if not held:
            raise KeyError(f"no {name!r} in the journal; there are: {', '.join(self._given)}")
        return held[-1]

    def parameters_changed(self, step: int, values: Mapping[str, Any]) -> None:
        """Let values that were changed while the run trains hold from `step` on; `run.steps()` calls it.

        Raises:
            ValueError: A micro-batch that is no number of rows.
        """
        for name, given in values.items():
            value = given
            if name not in self._given:
                continue
            if name == MICRO_BATCH:
                if value is not None and (type(value) is not int or value < 1):
                    raise ValueError(f"micro_batch counts rows: at least 1 (got {value!r})")
                value = min(value or self.batch, self.batch)
            if value != self.value(name, step):
                self._note(step, name, value, CHANGED)

    def reseed(self, step: int, *place: int) -> None:
        """Make what Python, NumPy and torch draw next a function of the seed, the step and a place in it."""
        seed = seed_of(self.seed, step, *place)
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.manual_seed(seed)

    def gradients(self, step: int, modules: Sequence[nn.Module], compute: Callable[[list[slice]], _T]) -> _T:
        """Return what `compute` returns, having it add up all gradients of a step, part by part.

        It gets the rows of each micro-batch, finds no gradients there and the random numbers of the step. When
        memory is missing it is called again for the same step with half the micro-batch; buffers of `modules`
        (running statistics) are put back before. No optimiser may take its step inside.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: There is no memory for a single row either.
        """
        self._step = step
        buffers = _buffers(modules)
        missing = ""
        while True:
            size = int(self.value(MICRO_BATCH, step))
            self.reseed(step)
            for module in modules:
                module.zero_grad(set_to_none=True)
            try:
                return compute([slice(start, start + size) for start in range(0, self.batch, size)])
            except Exception as error:
                if not is_out_of_memory(error):
                    if not missing:
                        raise
                    # A row alone can be too few, for batch normalisation say: memory is what is missing still.
                    raise torch.OutOfMemoryError(f"{missing}; with micro-batches of {size}: {error}") from error
                if size == 1:
                    raise
                missing = str(error)
            # Not inside `except`: the exception holds the frames, and they hold the memory.
            self._halve(step, size)
            _put_back(buffers)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs."""
        return {
            "seed": self.seed,
            "batch": self.batch,
            "step": self._step,
            "given": self._given,
            "journal": self.journal,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; what is given now and was not then becomes an entry of the journal.

        Raises:
            ValueError: The checkpoint is of a run with another seed or batch.
        """
        for name in ("seed", "batch"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the checkpoint was saved with {name} {state[name]}, this run has {getattr(self, name)}; "
                    f"set it back, or start a new run"
                )
        self._step = int(state["step"])
        self.journal = [dict(entry) for entry in state["journal"]]
        for name, value in self._given.items():
            before = state["given"].get(name)
            if value != before:
                self._take_over(name, value, before)

    def _take_over(self, name: str, value: Any, before: Any) -> None:
        """Let a value hold that was not given before; a smaller micro-batch undoes none that is smaller yet."""
        held = self.value(name, self._step) if self._entries(name) else None
        if name == MICRO_BATCH and value < before:
            value = min(value, held)
        if value != held:
            self._note(self._step + 1, name, value, GIVEN)

    def _halve(self, step: int, size: int) -> None:
        self._note(step, MICRO_BATCH, size // 2, "out of memory")
        sys.stderr.write(
            f"step {step}: out of memory with micro-batches of {size}; it is taken again with {size // 2}\n"
        )
        torch.cuda.empty_cache()  # does nothing where CUDA was not used

    def _note(self, step: int, name: str, value: Value, why: str) -> None:
        entry: Entry = {"step": step, "name": name, "value": value, "why": why}
        if before := self._entries(name):
            entry["was"] = before[-1]["value"]
        self.journal.append(entry)

    def _entries(self, name: str) -> list[Entry]:
        return [entry for entry in self.journal if entry["name"] == name]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory is missing, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)


def seed_of(seed: int, *place: int) -> int:
    """Return a 63-bit seed that belongs to a seed and a place (step, fit)."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> 1)


def generator_of(seed: int, *place: int) -> torch.Generator:
    """Return the random generator that belongs to a seed and a place; nothing is carried along."""
    return torch.Generator().manual_seed(seed_of(seed, *place))


def _buffers(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, torch.Tensor, torch.Tensor]]:
    """Return every buffer with a copy of what it holds."""
    return [
        (owner, name, buffer, buffer.clone())
        for module in modules
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]


def _put_back(buffers: Iterable[tuple[nn.Module, str, torch.Tensor, torch.Tensor]]) -> None:
    """Give buffers the content that they had; a forward pass may have replaced the tensor itself."""
    with torch.no_grad():
        for owner, name, buffer, content in buffers:
            buffer.copy_(content)
            setattr(owner, name, buffer)
