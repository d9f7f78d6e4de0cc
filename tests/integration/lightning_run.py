"""What the tests of the Lightning adapter train: everything that draws random numbers, and all that is counted.

Not here: the runs' folders, kills (framework_runs.py).
"""

import json
import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import trainwright
from tests.integration.framework_runs import kill_or_pause
from trainwright.training.adapters import lightning, lightning_loops, parts

ROWS, WIDTH = 50, 8


class Noisy(Dataset[Any]):
    """Rows that are different each time, by all three generators; `asked` are the rows asked for."""

    def __init__(self) -> None:
        self.x = torch.randn(ROWS, WIDTH)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(row)
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return self.x[row] + 0.1 * torch.randn(WIDTH), self.x[row].sum().view(1) + noise


class Endless(IterableDataset[Any]):
    """Rows without a place."""

    def __iter__(self) -> Any:
        return iter(Noisy()[row] for row in range(ROWS))


class Net(pl.LightningModule):
    """A network with dropout and running statistics; means, maxima and meters over an epoch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.net = nn.Sequential(
            nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )
        self.meter = torchmetrics.MeanAbsoluteError()

    def training_step(self, batch: Any, place: int) -> torch.Tensor:
        """Return the loss."""
        out = self.net(batch[0])
        loss = nn.functional.mse_loss(out, batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("rate", self.optimizers().param_groups[0]["lr"], on_step=True)
        self.meter(out, batch[1])
        self.log("error", self.meter, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, place: int) -> None:
        """Log the loss."""
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def on_train_epoch_start(self) -> None:
        """Draw something, as hooks do."""
        torch.rand(())

    def configure_optimizers(self) -> Any:
        """Return an optimiser and a schedule by steps."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Moments(pl.Callback):
    """Where the run is killed or asked to pause: while a step is made."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Do it, if it is this step."""
        run = trainwright.init()
        kill_or_pause(run, trainer.global_step + 1, run.parameters)


def trainer_of(**more: Any) -> Any:
    """Return a resumable trainer that validates inside the accumulation of a step, too."""
    common: dict[str, Any] = {
        "max_epochs": 3,
        "accumulate_grad_batches": 2,
        "val_check_interval": 5,
        "log_every_n_steps": 3,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.resumable(pl.Trainer)(**{**common, **more})


def train() -> None:
    """Train as the run's parameters say; 7 steps an epoch."""
    torch.set_num_threads(1)
    run = trainwright.init({"save": 4, "micro_batch": 4, "accumulate": 2, "rate": 0.05})
    chosen = run.parameters
    if chosen.get("forget"):
        for module in (lightning_loops, parts):
            vars(module)["restore_random"] = lambda state: None
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model, data = Net(chosen["rate"]), Noisy()
    trainer = trainer_of(
        accumulate_grad_batches=chosen["accumulate"],
        max_steps=chosen.get("max_steps", -1),
        checkpoint_every_n_steps=chosen["save"],
        monitor="val_loss",
        val_check_interval=5 if chosen["micro_batch"] == 4 else 1.0,
        callbacks=[Moments(), EarlyStopping("val_loss", patience=20)],
    )
    trainer.fit(model, DataLoader(data, chosen["micro_batch"], shuffle=True), DataLoader(Noisy(), 10))
    (run.directory / "notes.json").write_text(json.dumps(data.asked))
    if not run.stopping:
        moments = {
            f"{name}.{number}": value
            for number, one in trainer.optimizers[0].state_dict()["state"].items()
            for name, value in one.items()
        }
        drawn = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)
        save_file({**model.state_dict(), **moments, "drawn": drawn}, run.output / "model.safetensors")
    run.finish()


def refusals() -> None:
    """Write down how each thing is refused that does not work in a resumable run."""
    run = trainwright.init()
    found: dict[str, str] = {}

    def note(name: str, call: Any) -> None:
        try:
            call()
        except (ValueError, TypeError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"

    note("no trainer", lambda: lightning.resumable(Net))
    note("mode", lambda: trainer_of(mode="most"))
    note("enable_checkpointing", lambda: trainer_of(enable_checkpointing=True))
    note("callback", lambda: trainer_of(callbacks=[ModelCheckpoint()]))
    note("devices", lambda: trainer_of(devices=2))
    loader = DataLoader(Noisy(), 4)
    note("ckpt_path", lambda: trainer_of().fit(Net(0.1), loader, ckpt_path="last"))
    trainer = trainer_of(limit_val_batches=0)
    note("iterable", lambda: trainer.fit(Net(0.1), DataLoader(Endless(), 4)))
    note("save_checkpoint", lambda: trainer.save_checkpoint("model.ckpt"))
    note("second fit", lambda: trainer_of().fit(Net(0.1), loader))
    note("test", lambda: trainer_of().validate(Net(0.1), loader, ckpt_path="other.ckpt"))
    (run.directory / "notes.json").write_text(json.dumps(found))
    run.finish()
