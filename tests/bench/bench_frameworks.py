"""What a step costs: a bare loop, our run context in it, Trainer and Lightning as they are, and with the adapters.

python -m tests.bench.bench_frameworks [steps]    about a minute

The same small network, batches and optimiser in each, everything logged to where it usually goes every tenth step,
no checkpoints but the adapters' last one. The figures are the training thread's CPU time, the best of three rounds
taken by turns, so that another program on the machine counts little.
Not here: what saving costs (bench_checkpoint.py).
"""

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

import trainwright
from tests.bench.figures import say
from trainwright.training.adapters import huggingface, lightning
from trainwright.training.layout import RUN_DIR_VARIABLE

ROUNDS, BATCH, WIDTH, EVERY = 3, 16, 32, 10


class Rows(Dataset[Any]):
    """Rows as both frameworks like them."""

    def __init__(self, steps: int) -> None:
        self.x = torch.randn(steps * BATCH, WIDTH)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[row]}


class Net(pl.LightningModule):
    """The network, as a module for the bare loop and Trainer, and as Lightning's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss."""
        return {"loss": (self.net(x)[:, 0] - x.sum(1)).square().mean()}

    def training_step(self, batch: Any, place: int) -> torch.Tensor:
        """Return the loss, logged."""
        loss: torch.Tensor = self(**batch)["loss"]
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser that all use."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def bare(rows: Rows, run: "trainwright.Run | None" = None) -> None:
    """Train in a loop of one's own; with the run context in it where there is one."""
    model = Net()
    optimizer = model.configure_optimizers()
    for step, batch in enumerate(DataLoader(rows, BATCH, shuffle=True), 1):
        loss = model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run is not None:
            if step % EVERY == 0:
                run.log(step, {"loss": loss})
            run.should_stop()
            run.checkpoint_due(every_steps=10**9, step=step)


def with_context(rows: Rows) -> None:
    """Train in a loop of one's own through the run context."""
    with trainwright.init() as run:
        run.resume()
        bare(rows, run)


def with_trainer(rows: Rows, kind: type[Any]) -> None:
    """Train with Hugging Face's Trainer."""
    model = Net()
    arguments = TrainingArguments(
        output_dir="unused",
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        logging_steps=EVERY,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
    )
    optimizer = model.configure_optimizers()
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = kind(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, constant))
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def with_lightning(rows: Rows, kind: type[Any], **more: Any) -> None:
    """Train with Lightning's Trainer."""
    trainer = kind(
        max_epochs=1,
        accelerator="cpu",
        log_every_n_steps=EVERY,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **more,
    )
    trainer.fit(Net(), DataLoader(rows, BATCH, shuffle=True))


@contextmanager
def folder() -> Iterator[None]:
    """Give a run a folder of its own, and be in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as made:
        os.environ[RUN_DIR_VARIABLE] = made
        os.chdir(made)
        try:
            yield
            trainwright.init().finish()
        finally:
            os.chdir(before)


def main() -> None:
    """Train in each way by turns, and print what a step cost."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = Rows(steps)
    ways: dict[str, Callable[[Rows], None]] = {
        "a loop of one's own": bare,
        "the same, with the run context": with_context,
        "Trainer": lambda rows: with_trainer(rows, Trainer),
        "Trainer, resumable": lambda rows: with_trainer(rows, huggingface.resumable(Trainer)),
        "Lightning": lambda rows: with_lightning(rows, pl.Trainer),
        "Lightning, resumable": lambda rows: with_lightning(rows, lightning.resumable(pl.Trainer)),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with folder():
                begun = time.thread_time()
                way(rows)
                taken[name].append((time.thread_time() - begun) / steps * 1e6)
    floor = min(taken["a loop of one's own"])
    for name, rounds in taken.items():
        best = min(rounds)
        say(name, f"{best:7.0f} µs a step" + ("" if best == floor else f", {best - floor:+6.0f} µs"))


if __name__ == "__main__":
    main()
