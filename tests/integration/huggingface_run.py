"""What the tests of the Hugging Face adapter train: everything that draws random numbers, and all that is counted.

Not here: the runs' folders, kills (framework_runs.py); LoRA (tests/faults/runs/lora.py).
"""

import json
import random
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import EarlyStoppingCallback, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import trainwright
from tests.integration.framework_runs import kill_or_pause
from trainwright.training.adapters import huggingface, parts

ROWS, WIDTH = 50, 8
NEEDED = (LlamaForCausalLM, peft.LoraConfig)
"""Loaded before the first fork: what lora.py would load in each process."""


class Net(nn.Module):
    """A network with dropout and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.outer = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss and the output."""
        out = self.outer(self.inner(x))
        return {"loss": nn.functional.mse_loss(out, y), "out": out}


class Noisy(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows that are different each time, by all three generators; `asked` are the rows asked for."""

    def __init__(self, noise: float) -> None:
        self.x = torch.randn(ROWS, WIDTH)
        self.noise = noise
        self.asked: list[int] = []

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        self.asked.append(row)
        noise = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        x = self.x[row] + self.noise * torch.randn(WIDTH)
        return {"x": x, "y": self.x[row].sum().view(1) + self.noise * noise}


class Moments(TrainerCallback):
    """Where the run is killed or asked to pause."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do it, if it is this step."""
        run = trainwright.init()
        kill_or_pause(run, state.global_step, run.parameters)


def settings(**more: Any) -> TrainingArguments:
    """Return arguments that log, evaluate and save at steps that have nothing to do with each other."""
    common: dict[str, Any] = {
        "output_dir": "unused",
        "num_train_epochs": 3,
        "logging_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "lr_scheduler_type": "linear",
        "warmup_steps": 3,
        "remove_unused_columns": False,
        "label_names": ["y"],
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "seed": 5,
    }
    return TrainingArguments(**{**common, **more})


def train() -> None:
    """Train as the run's parameters say; 7 steps an epoch."""
    torch.set_num_threads(1)
    defaults = {"save": 4, "micro_batch": 4, "accumulate": 2, "rate": 0.05, "noise": 0.1, "dropout": 0.2}
    run = trainwright.init(defaults)
    chosen = run.parameters
    if chosen.get("forget"):
        for module in (huggingface, parts):
            vars(module)["restore_random"] = lambda state: None
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model, data = Net(), Noisy(chosen["noise"])
    model.inner[3].p = chosen["dropout"]
    arguments = settings(
        save_steps=chosen["save"],
        per_device_train_batch_size=chosen["micro_batch"],
        gradient_accumulation_steps=chosen["accumulate"],
        learning_rate=chosen["rate"],
        accelerator_config={"use_seedable_sampler": chosen.get("seedable", False)},
    )
    trainer = huggingface.resumable(Trainer)(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=Noisy(0.1),
        callbacks=[Moments(), EarlyStoppingCallback(6)],
    )
    trainer.train()
    (run.directory / "notes.json").write_text(json.dumps(data.asked))
    if not run.stopping:
        moments = {
            f"{name}.{number}": value
            for number, one in trainer.optimizer.state_dict()["state"].items()
            for name, value in one.items()
        }
        drawn = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)
        save_file({**model.state_dict(), **moments, "drawn": drawn}, run.output / "model.safetensors")
    run.finish()


def lora() -> None:
    """Run the LoRA fine-tuning of the kill-point campaign."""
    runpy.run_path(str(Path(__file__).parents[1] / "faults/runs/lora.py"))
    trainwright.init().finish()


def refusals() -> None:
    """Write down how each thing is refused that does not work in a resumable run."""
    run = trainwright.init()
    found: dict[str, str] = {}
    trainer = huggingface.resumable(Trainer)

    def note(name: str, call: Any) -> None:
        try:
            call()
        except (ValueError, TypeError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"

    def made(**more: Any) -> Any:
        return trainer(model=Net(), args=settings(**more), train_dataset=Noisy(0), eval_dataset=Noisy(0))

    for name in ("ignore_data_skip", "auto_find_batch_size", "save_only_model", "enable_jit_checkpoint"):
        note(name, lambda name=name: made(**{name: True}))
    note("load_best_model_at_end", lambda: made(load_best_model_at_end=True, save_steps=3))
    note("resume_from_checkpoint", lambda: made().train(resume_from_checkpoint="somewhere"))
    note("trial", lambda: made().train(trial={"rate": 1}))
    note("no trainer", lambda: huggingface.resumable(Net))

    class Hasty(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_epoch_stop = True

    hasty = made(num_train_epochs=2)
    hasty.add_callback(Hasty())
    note("should_epoch_stop", hasty.train)
    note("second train", made().train)
    (run.directory / "notes.json").write_text(json.dumps(found))
    run.finish()
