"""Hugging Face's Trainer, resumable: its save points save the run's checkpoints, none of its own files are used.

    from transformers import Trainer, TrainingArguments
    from trainwright.training.adapters.huggingface import resumable

    trainer = resumable(Trainer)(model=model, args=TrainingArguments(save_steps=100), train_dataset=data)
    trainer.train()  # goes on where the run stood

The Trainer's own skipping of batches finds the place in the data; the generators' states at the start of the
epoch, at the batch that was fetched ahead, and at the save are set where each of them held. So a resumed run is,
on the CPU, bit for bit the run that was never stopped.
Not here: several processes, DeepSpeed, FSDP; what is refused, see `_REFUSED`; what is not exact, see
docs/frameworks.md.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sized
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import Trainer
from transformers.trainer_callback import ExportableState, TrainerCallback

from trainwright.training.adapters.parts import (
    BEGIN,
    CountedBatches,
    counted,
    fingerprint,
)
from trainwright.training.context import Run, init
from trainwright.training.rates import change_rates, rates_of
from trainwright.training.rng import restore_random

_PART = "trainer"
_STATE_FILE = "trainer_state.json"
_TIMES = ("_runtime", "_per_second", "_preparation_time")
_REFUSED = {
    "ignore_data_skip": "leave it False: with it a resumed run would see other batches",
    "auto_find_batch_size": "leave it False: it starts again with another effective batch; a task out of memory "
    "is repaired by halving the micro-batch and doubling the accumulation",
    "save_only_model": "leave it False: a run cannot go on from a model alone",
    "load_best_model_at_end": "leave it False: set metric_for_best_model, and the best checkpoint is kept",
    "enable_jit_checkpoint": "leave it False: the run saves when it is asked to stop",
    "push_to_hub": "leave it False, and call push_to_hub() after train()",
    "deepspeed": "it is not supported",
    "fsdp": "it is not supported",
}


def resumable(trainer: type[Any] = Trainer) -> type[Any]:
    """Return `trainer`, Trainer or a class made from it, as one whose run can be paused, killed and moved.

    Its `train()` goes on from the run's checkpoint by itself. It saves at the Trainer's save points, at the end
    and when the task is asked to stop; then it returns early: `run.stopping` tells. What the Trainer logs is
    logged to the run. TypeError when `trainer` is no Trainer.
    """
    if not (isinstance(trainer, type) and issubclass(trainer, Trainer)):
        raise TypeError(f"resumable() takes transformers.Trainer or a class made from it, got {trainer!r}")
    return type(trainer.__name__, (_Resumable, trainer), {"__doc__": trainer.__doc__})


class _Resumable(Trainer):
    """What `resumable()` puts before a Trainer."""

    _trained: Run | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse()
        self._run = init()
        self._stored: Any = None
        self._saved: dict[str, Any] | None = None
        self._batches: CountedBatches | None = None
        self._rates: list[list[float]] = []
        self._base: str | None = None
        self._updates = 0
        self._watch = _Watch(self)
        self.add_callback(self._watch)

    def train(
        self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: list[str] | None = None
    ) -> Any:
        """Train, or go on; ValueError when the checkpoint is not of this training."""
        if resume_from_checkpoint:
            raise ValueError(
                "leave train(resume_from_checkpoint=…) out: the run knows the checkpoint that it goes on from"
            )
        if trial is not None:
            raise ValueError("a hyper-parameter search is many runs; make a task of each trial")
        self._refuse()
        if _Resumable._trained is self._run:
            raise RuntimeError(
                "this run was trained already: a run has one train(), so make another task of the next"
            )
        _Resumable._trained = self._run
        resumed = self._run.resumed
        if resumed is None:
            return super().train(ignore_keys_for_eval=ignore_keys_for_eval)
        self._run.resume()
        if _PART not in resumed.state:
            raise ValueError(
                f"the checkpoint of step {resumed.step} was not saved by this adapter: it has no {_PART!r}"
            )
        self._stored, self._saved = resumed.state, resumed.state[_PART]
        self._compare("examples", self._saved["examples"], _length(self.train_dataset), "use the same data")
        self._compare(
            "effective batch",
            self._saved["batch"],
            self._effective_batch(),
            "when you change per_device_train_batch_size change gradient_accumulation_steps by the same factor",
        )
        with tempfile.TemporaryDirectory() as folder:
            # The Trainer's way in is a folder; this one file, and what is overridden below, is all it reads.
            Path(folder, _STATE_FILE).write_text(json.dumps(self._saved["state"]))
            return super().train(resume_from_checkpoint=folder, ignore_keys_for_eval=ignore_keys_for_eval)

    def get_train_dataloader(self) -> Any:
        """Return the loader, made to know its place."""
        loader = super().get_train_dataloader()
        self._batches = counted(loader, ahead=True)
        return loader

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        self._updates = num_update_steps_per_epoch
        if self._saved is not None:
            self._compare("steps an epoch", self._saved["updates"], self._updates, "use the same data and batch")
        place: tuple[int, int] = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, *args, **kwargs
        )
        return place

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self._saved is not None
        state = self._stored["model"]
        if self._saved["base"] is None:
            self.model.load_state_dict(state)
            return
        self._base = self._base_hash()
        if self._base != self._saved["base"]:
            raise ValueError(
                f"the base model's weights are not those that this run began with (sha256 {self._base[:12]}…, was "
                f"{self._saved['base'][:12]}…); load the same ones, and set a seed before any are made at random"
            )
        expected = self._model_state()
        if state.keys() != expected.keys():
            others = sorted(state.keys() ^ expected.keys())
            raise ValueError(
                f"the checkpoint's adapter is another one: {len(others)} tensors differ, as {others[0]}"
            )
        self.model.load_state_dict(state, strict=False)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self._saved is not None
        self._rates = rates_of([self.optimizer])
        self.optimizer.load_state_dict(self._stored["optimizer"])
        self.lr_scheduler.load_state_dict(self._stored["scheduler"])
        change_rates([self.optimizer], [self.lr_scheduler], self._saved["rates"], self._rates)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and "scaler" in self._stored and self._scaler() is not None:
            self._scaler().load_state_dict(self._stored["scaler"])

    def _run_epoch(self, **kwargs: Any) -> None:
        if self._saved is not None and (self._saved["ended"] or self.state.global_step >= self.state.max_steps):
            self.control.should_training_stop = True
            return
        first = kwargs["steps_trained_in_current_epoch"]
        if kwargs["resume_from_checkpoint"] and kwargs["epoch"] == kwargs["epochs_trained"] and first:
            data = self._saved and self._saved["data"]
            if self._batches is not None and data is not None:
                # accelerate fetches one batch ahead, so at the save `first` was there and the next one was not.
                states = {BEGIN: data["begun"], first: data["asked"], first + 1: self._stored.random()}
                self._batches.go_on(0, states)
        super()._run_epoch(**kwargs)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Set the generators; unless that was done when the first batches were fetched."""
        if checkpoint is None:
            return
        first = self.state.global_step % self._updates * self.args.gradient_accumulation_steps
        if first == 0 or self._batches is None or first + 1 >= len(self._batches):
            restore_random(self._stored.random())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.control.should_training_stop:
            return  # the final one follows
        if self._watch.in_epoch and float(self.state.epoch).is_integer():
            self._watch.postponed = True  # what an epoch ends with, such as an evaluation, comes first
            return
        self._checkpoint()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._finalize_training(*args, **kwargs)
        if not self._watch.silent:
            self._checkpoint(ended=True)
        return output

    def begin(self) -> None:
        """Take up what the Trainer has not: its running sums and its callbacks' counters."""
        if self._base is None and _is_adapter(self.model):
            self._base = self._base_hash()
        if self._saved is None:
            self._rates = rates_of([self.optimizer])
            return
        if self._saved["ended"]:
            self._watch.silent = True
            restore_random(self._stored.random())
        sums = self._saved["sums"]
        self._tr_loss = sums["loss"].to(self.args.device)
        self._total_loss_scalar = sums["total"]
        self._globalstep_last_logged = sums["logged"]
        self._initial_global_step = sums["first"]
        for (name, callback), (saved_name, attributes) in zip(
            self._counters(), self._saved["callbacks"], strict=False
        ):
            if name == saved_name:
                for attribute, value in attributes.items():
                    setattr(callback, attribute, value)

    def _checkpoint(self, *, ended: bool = False) -> None:
        self.store_flos()
        batches = self._batches
        parts: dict[str, Any] = {
            "model": self._model_state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            _PART: {
                "state": dataclasses.asdict(self.state)
                | {"stateful_callbacks": {}, "best_model_checkpoint": None},
                "callbacks": [(name, one.state()["attributes"]) for name, one in self._counters()],
                "sums": {
                    "loss": self._tr_loss,
                    "total": self._total_loss_scalar,
                    "logged": self._globalstep_last_logged,
                    "first": self._initial_global_step,
                },
                "data": None if batches is None else {"begun": batches.begun, "asked": batches.asked},
                "rates": self._rates,
                "base": self._base,
                "batch": self._effective_batch(),
                "micro_batch": self.args.per_device_train_batch_size,
                "examples": _length(self.train_dataset),
                "updates": self._updates,
                "ended": ended,
            },
        }
        if self._scaler() is not None:
            parts["scaler"] = self._scaler().state_dict()
        score = self._watch.score_at(self.state.global_step)
        greater = bool(self.args.greater_is_better)
        self._run.checkpoint(self.state.global_step, score=score, greater_is_better=greater, final=ended, **parts)
        self._watch.saved_step = self.state.global_step

    def _model_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.model.state_dict()
        if not _is_adapter(self.model):
            return state
        buffers = {name for name, _ in self.model.named_buffers(remove_duplicate=False)}
        wanted = buffers | {name for name, one in self._parameters() if one.requires_grad}
        return {name: value for name, value in state.items() if name in wanted}

    def _base_hash(self) -> str:
        return fingerprint((name, one) for name, one in self._parameters() if not one.requires_grad)

    def _parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return list(self.model.named_parameters(remove_duplicate=False))

    def _scaler(self) -> Any:
        return getattr(self.accelerator, "scaler", None)

    def _counters(self) -> list[tuple[str, Any]]:
        callbacks = self.callback_handler.callbacks
        return [(type(one).__name__, one) for one in callbacks if isinstance(one, ExportableState)]

    def _effective_batch(self) -> int:
        return int(self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _compare(self, what: str, saved: Any, now: Any, fix: str) -> None:
        if saved != now:
            raise ValueError(f"{what}: {saved} when the checkpoint was saved, {now} now; {fix}")

    def _refuse(self) -> None:
        """Refuse what would not be the same run after a resume."""
        for name, fix in _REFUSED.items():
            value = getattr(self.args, name, None)
            if value:
                raise ValueError(f"TrainingArguments({name}={value!r}) does not work in a resumable run: {fix}")
        if self.args.world_size > 1 or self.args.n_gpu > 1:
            raise ValueError(
                f"a resumable run trains in one process on one device, here are {self.args.world_size} processes "
                f"and {self.args.n_gpu} GPUs; start one process, with CUDA_VISIBLE_DEVICES set to one GPU"
            )


class _Watch(TrainerCallback):
    """Log to the run, and have the Trainer save and stop when the task is asked to stop."""

    def __init__(self, trainer: _Resumable) -> None:
        self._trainer = trainer
        self._run = trainer._run
        self._score: tuple[int, float] | None = None
        self.in_epoch = False
        self.postponed = False
        self.silent = False
        self.saved_step: int | None = None

    def score_at(self, step: int) -> float | None:
        """Return the metric for the best model, where the model of `step` was evaluated."""
        return self._score[1] if self._score and self._score[0] == step else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.in_epoch = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run.should_stop():
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        name = args.metric_for_best_model
        if name and metrics:
            value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
            self._score = None if value is None else (state.global_step, float(value))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.in_epoch = False
        if self.silent:  # paused in the middle of an epoch: nothing of its end may happen now
            control.should_log = control.should_evaluate = control.should_save = False
        elif control.should_epoch_stop and not control.should_training_stop:
            raise ValueError("a callback ended an epoch early (should_epoch_stop): such a run cannot be resumed")
        elif self.postponed or self._run.should_stop():
            self.postponed = False
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.saved_step == state.global_step and self._run.should_stop() and not control.should_training_stop:
            self.silent = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Log the numbers; but no times, which are different each time, and no summary of a part of a run."""
        if self.silent:
            return
        numbers = {
            name: float(value)
            for name, value in (logs or {}).items()
            if isinstance(value, Real) and not isinstance(value, bool) and not name.endswith(_TIMES)
        }
        if numbers:
            self._run.log(state.global_step, numbers, state.max_steps if state.max_steps > 0 else None)


def _is_adapter(model: Any) -> bool:
    """Return whether PEFT put an adapter on a frozen model."""
    peft = sys.modules.get("peft")
    if getattr(model, "_hf_peft_config_loaded", False):
        return True
    return peft is not None and isinstance(model, peft.PeftModel | peft.PeftMixedModel)


def _length(dataset: Any) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) else None
