"""What saving costs a training: `python -m tests.bench.bench_checkpoint [pairs] [folder]`, about five minutes.

The state is a transformer's and its AdamW's, 200 MB of float32 in some 260 tensors. `torch.save` writes the same
state to the same disk, as people call it (it leaves the data in the page cache) and with fsync, as a checkpoint
that survives a power cut must be written, and ours is. All kinds of save take turns, so that a busy machine is
busy for each of them. Not here: resuming, whose proof is bits and not seconds.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trainwright
from tests.bench.figures import say
from trainwright.training import layout

WIDTH, LAYERS, WORDS, LENGTH, BATCH = 512, 5, 1600, 64, 8
SAVE_EVERY = 60.0


def transformer() -> torch.nn.Module:
    """Return a language model of 16.6 million weights."""
    layer = torch.nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, dropout=0.1, batch_first=True)
    return torch.nn.Sequential(
        torch.nn.Embedding(WORDS, WIDTH),
        torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False),
        torch.nn.Linear(WIDTH, WORDS, bias=False),
    )


class Training:
    """A model, its optimiser, and a step of it."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = transformer()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.done = 0

    def step(self) -> None:
        """Make one step on words that are made up."""
        words = torch.randint(0, WORDS, (BATCH, LENGTH + 1))
        found = self.model(words[:, :-1])
        loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), words[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.done += 1

    def parts(self) -> dict[str, Any]:
        """Return what is saved."""
        return {"model": self.model, "optimizer": self.optimizer}

    def bytes(self) -> int:
        """Return the size of the state."""
        found = list(self.model.state_dict().values())
        found += [item for one in self.optimizer.state.values() for item in one.values()]
        return sum(item.nbytes for item in found)


def wait_until_whole() -> None:
    """Return when the thread that writes has nothing left to do."""
    trainwright.init()._saver.wait()


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def torch_save(training: Training, path: Path, *, sync: bool) -> None:
    """Save as scripts do."""
    with open(path, "wb") as file:
        torch.save({name: part.state_dict() for name, part in training.parts().items()}, file)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def stalls(run: trainwright.Run, training: Training, folder: Path, rounds: int) -> None:
    """Print what a loop waits for one save, of each kind."""
    size = training.bytes()
    say("the state", f"{size / 1e6:.0f} MB in {sum(1 for _ in training.model.parameters()) * 4} tensors")
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    first = seconds(lambda: run.checkpoint(1, **training.parts()))
    run.checkpoint(1, wait=True, **training.parts())
    found: dict[str, list[float]] = {}
    path = folder / "plain.pt"
    for _ in range(rounds):
        kinds: dict[str, Callable[[], object]] = {
            "memory copy": lambda: np.copyto(target, source),
            "run.checkpoint": lambda: run.checkpoint(2, **training.parts()),
            "torch.save": lambda: torch_save(training, path, sync=False),
            "torch.save, fsync": lambda: torch_save(training, path, sync=True),
        }
        for name, call in kinds.items():
            path.unlink(missing_ok=True)
            os.sync()
            training.step()  # what is saved is out of the processor's caches, as in a training
            found.setdefault(name, []).append(seconds(call))
            if name == "run.checkpoint":
                found.setdefault("until it is whole", []).append(seconds(wait_until_whole))
    quiet = {name: statistics.quantiles(taken, n=4)[0] for name, taken in found.items()}
    for name, taken in found.items():
        middle = 1e3 * statistics.median(taken)
        around = f"{1e3 * min(taken):.0f} – {1e3 * max(taken):.0f}, first quartile {1e3 * quiet[name]:.1f}"
        say(f"{name}, median of {rounds}", f"{middle:7.1f} ms, {around}")
    say("run.checkpoint, the first of a run", f"{1e3 * first:7.1f} ms")
    for kind, goal in (("torch.save", "≤ 25 %, better 16 %"), ("torch.save, fsync", ""), ("memory copy", "")):
        part = statistics.median(found["run.checkpoint"]) / statistics.median(found[kind])
        at_rest = quiet["run.checkpoint"] / quiet[kind]
        say(f"stall / {kind}", f"{100 * part:7.1f} %, of first quartiles {100 * at_rest:.1f} %", goal)


def cpu() -> float:
    """Return the CPU seconds that this process has used, the kernel's for it among them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def slowdown(run: trainwright.Run, training: Training, pairs: int) -> None:
    """Print what a save adds to the steps around it, all of the writing among them."""
    before = cpu()
    for _ in range(5):
        run.checkpoint(3, wait=True, **training.parts())
    say("CPU seconds of one save", f"{(cpu() - before) / 5:7.3f} s")
    once = min(seconds(training.step) for _ in range(5))
    steps = max(10, round(6 / once))
    plain: list[float] = []
    saved: list[float] = []
    for number in range(pairs):
        for save in (False, True) if number % 2 else (True, False):
            started = time.perf_counter()
            for step in range(steps):
                training.step()
                run.log(training.done, {"loss": 1.0})
                run.should_stop()
                if save and step == 0:
                    run.checkpoint(training.done, **training.parts())
            (saved if save else plain).append(time.perf_counter() - started)
            wait_until_whole()
    extra = statistics.median(a - b for a, b in zip(saved, plain, strict=True))
    middle = statistics.median(plain)
    every = round(SAVE_EVERY / (middle / steps))
    say(f"{steps} steps without a save, median of {pairs}", f"{middle:7.3f} s")
    say(f"{steps} steps with one, median of {pairs}", f"{statistics.median(saved):7.3f} s")
    say("what one save adds, median of the pairs", f"{extra:7.3f} s")
    say(f"a save every {every} steps ({SAVE_EVERY:.0f} s) adds", f"{100 * extra / SAVE_EVERY:7.2f} %", "≤ 2 %")
    say("2 % are kept down to a save every", f"{extra / 0.02:7.1f} s")


def main() -> None:
    """Run both parts in a run directory on the disk that is measured."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    home = sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-", dir=home) as folder:
        os.environ[layout.RUN_DIR_VARIABLE] = folder
        run = trainwright.init()
        run.resume()
        training = Training()
        training.step()
        stalls(run, training, Path(folder), 2 * pairs)
        slowdown(run, training, pairs)
        run.finish()


if __name__ == "__main__":
    main()
