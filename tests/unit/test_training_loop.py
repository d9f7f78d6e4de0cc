"""A step is a function of (seed, step), survives missing memory, and the journal says what held when."""

import copy
import json
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.forecast_kit import Watched
from trainwright.contracts.failure import FailureClass
from trainwright.training.classify import Ending, classify
from trainwright.training.loop import Diverged, Loop, is_out_of_memory

BATCH = 12
DATA = torch.arange(600.0).reshape(100, 6) / 600


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Training:
    """A small network with dropout and running statistics; a row above `most` at a time finds no memory."""

    def __init__(self, loop: Loop, most: Callable[[int], int] = lambda step: BATCH) -> None:
        torch.manual_seed(7)
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=None), nn.Dropout(0.5), nn.Linear(8, 1)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loop = loop
        self.most = most
        self.calls: list[tuple[int, int]] = []

    def run(self, *steps: int) -> "Training":
        for step in steps:
            self.optimizer.param_groups[0]["lr"] = self.loop.value("learning_rate", step)
            self.loop.gradients(step, [self.model], partial(self.compute, step))
            self.optimizer.step()
        return self

    def compute(self, step: int, parts: list[slice]) -> float:
        rows = torch.randint(len(DATA), (BATCH,))
        noise = random.random() + float(np.random.rand())
        loss = 0.0
        for number, part in enumerate(parts):
            chosen = DATA[rows[part]]
            self.calls.append((step, len(chosen)))
            output = self.model(chosen)
            if len(rows[parts[0]]) > self.most(step) and number == len(parts) - 1:  # gradients are half done
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            share = (output.squeeze(1) - chosen.sum(1) * noise).square().sum() / BATCH
            share.backward()
            loss += float(share.detach())
        return loss

    def state(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "loop": self.loop}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def resume(self, state: dict[str, Any]) -> "Training":
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loop.load_state_dict(state["loop"])
        return self


def loop(**values: Any) -> Loop:
    return Loop(**{"seed": 1, "batch": BATCH, "learning_rate": 0.1, **values})


def same(one: Training, other: Training) -> bool:
    mine, others = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(mine[name], others[name]) for name in mine)


def halved_at(step: int, size: int) -> dict[str, Any]:
    return {"step": step, "name": "micro_batch", "value": size // 2, "why": "out of memory", "was": size}


def test_a_step_depends_on_nothing_that_happened_before() -> None:
    one = Training(loop()).run(1, 2, 3)
    other = Training(loop())
    for step in (1, 2, 3):
        torch.rand(step), random.random(), np.random.rand()
        other.run(step)
    assert same(one, other)
    assert not same(one, Training(loop(seed=2)).run(1, 2, 3))


def test_resumed_it_is_the_same_run() -> None:
    whole = Training(loop(micro_batch=5)).run(*range(1, 9))
    first = Training(loop(micro_batch=5)).run(*range(1, 5))
    resumed = Training(loop(micro_batch=5)).resume(first.state()).run(*range(5, 9))
    assert same(whole, resumed)
    assert resumed.loop.journal == whole.loop.journal
    assert {size for _, size in whole.calls} == {5, 2}


def test_missing_memory_halves_the_micro_batch_and_takes_the_same_step_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def most(step: int) -> int:
        return BATCH if step < 3 else 3

    repaired = Training(loop(), most).run(*range(1, 7))
    assert repaired.loop.journal[2:] == [halved_at(3, 12), halved_at(3, 6)]
    assert [call for call in repaired.calls if call[0] == 3] == [(3, 12), (3, 6), (3, 6), *[(3, 3)] * 4]
    assert "step 3: out of memory with micro-batches of 12; it is taken again with 6" in capfd.readouterr().err

    replayed = Training(loop(journal=repaired.loop.journal)).run(*range(1, 7))
    assert same(repaired, replayed)
    assert replayed.loop.journal == repaired.loop.journal
    assert not same(repaired, Training(loop()).run(*range(1, 7)))  # other dropout, other statistics

    resumed = Training(loop(), most).resume(Training(loop(), most).run(*range(1, 5)).state()).run(5, 6)
    assert same(repaired, resumed)
    assert resumed.loop.journal == repaired.loop.journal


def test_without_memory_for_one_row_the_error_is_the_runs() -> None:
    training = Training(loop(), lambda step: 0)
    training.model = nn.Sequential(nn.Linear(6, 1))
    before = training.state()
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory. Tried to allocate 2.00 GiB.$"):
        training.run(1)
    assert [entry["value"] for entry in training.loop.journal if entry["name"] == "micro_batch"] == [12, 6, 3, 1]
    assert training.state()["optimizer"] == before["optimizer"]
    assert training.calls[-1] == (1, 1)


def test_a_row_alone_that_does_not_do_is_missing_memory_too() -> None:
    said = "Tried to allocate 2.00 GiB.; with micro-batches of 1: Expected more than 1 value per channel"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        Training(loop(), lambda step: 2).run(1)


def test_other_errors_are_not_taken_for_missing_memory() -> None:
    def compute(parts: list[slice]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (12x6 and 7x8)")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        loop().gradients(1, [], compute)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.8 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_missing_memory_is_known_on_every_device(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_the_allocators_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@contextmanager
def address_space(more: int) -> Iterator[None]:
    """Let this process have so many bytes more than it has."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit is not kept")
def test_a_step_that_is_really_too_large_is_taken_in_smaller_parts() -> None:
    """Two steps of 64 rows need some 150 MB at once; there are 70 MB."""

    def train(loop: Loop) -> torch.Tensor:
        model = nn.Linear(4, 300_000, bias=False)
        nn.init.constant_(model.weight, 0.5)
        rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))

        def compute(parts: list[slice]) -> None:
            for part in parts:
                (model(rows[part]).square().sum() / 64).backward()

        for step in (1, 2):
            loop.gradients(step, [model], compute)
            with torch.no_grad():
                model.weight -= 1e-3 * model.weight.grad if model.weight.grad is not None else 0
        return model.weight.detach()

    limited = loop(batch=64)
    with address_space(70_000_000):
        found = train(limited)
    sizes = [entry["value"] for entry in limited.journal if entry["name"] == "micro_batch"]
    assert sizes[:2] == [64, 32]
    assert {entry["step"] for entry in limited.journal} >= {0, 1}, "a fragmented heap may ask for more later"
    assert torch.equal(found, train(loop(batch=64, journal=limited.journal)))


def test_what_a_resumed_run_is_given_anew_holds_from_the_next_step_on() -> None:
    state = Training(loop()).run(1, 2).state()
    repaired = Training(loop(learning_rate=0.05, micro_batch=4)).resume(state)
    assert repaired.loop.journal[2:] == [
        {"step": 3, "name": "micro_batch", "value": 4, "why": "given", "was": 12},
        {"step": 3, "name": "learning_rate", "value": 0.05, "why": "given", "was": 0.1},
    ]
    assert [repaired.loop.value("learning_rate", step) for step in (2, 3)] == [0.1, 0.05]
    repaired.run(3, 4)
    assert same(repaired, Training(loop(journal=repaired.loop.journal)).run(1, 2, 3, 4))

    again = Training(loop(learning_rate=0.05, micro_batch=4)).resume(repaired.state())
    assert again.loop.journal == repaired.loop.journal  # said once


def test_a_halved_micro_batch_outlives_a_resume_that_gives_the_same_one_as_before() -> None:
    state = Training(loop(micro_batch=8), lambda step: 2).run(1).state()
    resumed = Training(loop(micro_batch=8)).resume(state)
    assert resumed.loop.journal == state["loop"]["journal"]
    assert resumed.loop.value("micro_batch", 2) == 2


def test_a_halved_micro_batch_is_kept_by_a_repair_and_raised_by_a_wish() -> None:
    state = Training(loop(micro_batch=8), lambda step: 2).run(1).state()
    repaired = Training(loop(micro_batch=4)).resume(state)
    assert repaired.loop.value("micro_batch", 2) == 2
    again = Training(loop(micro_batch=4)).resume(repaired.state())
    assert again.loop.value("micro_batch", 2) == 2
    assert Training(loop(micro_batch=10)).resume(again.state()).loop.value("micro_batch", 2) == 10


def test_another_machine_is_in_the_journal() -> None:
    state = Training(loop(torch="2.6.0", threads=1)).run(1).state()
    resumed = Training(loop(torch="2.7.0", threads=1)).resume(state)
    assert [entry for entry in resumed.loop.journal if entry["step"]] == [
        {"step": 2, "name": "torch", "value": "2.7.0", "why": "given", "was": "2.6.0"}
    ]


def test_the_state_is_plain() -> None:
    state = Training(loop(), lambda step: 6).run(1).loop.state_dict()
    assert json.loads(json.dumps(state)) == state


def test_it_is_a_part_of_a_runs_checkpoints(tmp_path: Path) -> None:
    def trained(run: Watched, **given: Any) -> Training:
        training = Training(loop(**given), lambda step: 6 if step > 1 else BATCH)
        with run:
            parts: dict[str, Any] = {
                "model": training.model,
                "optimizer": training.optimizer,
                "loop": training.loop,
            }
            for step in run.steps(6, **parts):
                training.run(step)
                run.log(step, {"loss": 1.0})
        return training

    whole = trained(Watched(tmp_path / "whole"))
    first = Watched(tmp_path / "first", stop_at=3)
    trained(first)
    resumed = trained(Watched(tmp_path / "second", after=first))
    assert resumed.calls[0][0] == 4
    assert same(whole, resumed)
    assert resumed.loop.journal == whole.loop.journal
    assert resumed.loop.journal[-1] == halved_at(2, BATCH)


@pytest.mark.parametrize("name", ["seed", "batch"])
def test_a_checkpoint_of_another_run_is_refused(name: str) -> None:
    state = loop().state_dict()
    with pytest.raises(ValueError, match=f"saved with {name} {state[name]}, this run has 3; set it back"):
        loop(**{name: 3}).load_state_dict(state)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"micro_batch": 0}])
def test_rows_are_counted_from_one(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        loop(**sizes)


def test_a_name_that_was_not_given_says_which_were() -> None:
    with pytest.raises(KeyError, match="no 'rate' in the journal; there are: micro_batch, learning_rate"):
        loop().value("rate", 1)


def test_a_diverged_step_is_named() -> None:
    with pytest.raises(Diverged) as caught:
        raise Diverged("the loss", float("nan"), 12)
    error = caught.value
    assert (str(error), error.step) == ("the loss became nan at step 12; try a lower learning_rate", 12)
    failure = classify(Ending(exit_code=1, stderr="".join(traceback.format_exception(error))))
    assert (failure.failure_class, failure.bad_step) == (FailureClass.DIVERGED, 12)
