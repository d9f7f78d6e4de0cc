"""PyTorch Lightning's Trainer, resumable: the run's checkpoints instead of .ckpt files.

    import pytorch_lightning as pl  # or lightning.pytorch
    from trainwright.training.adapters.lightning import resumable

    trainer = resumable(pl.Trainer)(max_epochs=5, checkpoint_every_n_steps=100, monitor="val_loss")
    trainer.fit(model, loader)  # goes on where the run stood

Lightning saves before a batch's validation and takes no random states and no place in the data along. Here a
checkpoint is taken where nothing is half done: after a step with its validation, or after an epoch with all its
hooks. Lightning's own loops, made to save there, then start again as if they had never stopped.
Not here: several devices; what is refused, see `_refuse`; what is not exact, see docs/frameworks.md.
"""

from collections.abc import Mapping
from typing import Any

from trainwright.training.adapters.lightning_loops import (
    EpochLoop,
    FitLoop,
    Paused,
    batch_of,
    fabric_part,
    meter_state,
    meters,
    part,
    pl,
)
from trainwright.training.adapters.parts import CountedBatches
from trainwright.training.context import Run, init
from trainwright.training.rates import rates_of

_checkpoint_io: Any = fabric_part("plugins.io.checkpoint_io")

_PART = "lightning"
_HYPER_PARAMETERS = ("hparams_name", "hyper_parameters", "datamodule_hyper_parameters", "hparams_type")


def resumable(trainer: type[Any] = pl.Trainer) -> type[Any]:
    """Return `trainer`, Lightning's Trainer or a class made from it, as one whose run can be paused, killed and
    moved.

    It takes three arguments more. `checkpoint_every_n_steps` counts optimiser steps (every 60 s without it).
    `monitor` names a metric that is logged after a validation, `mode` ("min" or "max") says which is better: the
    best checkpoint is kept. Its `fit()` goes on from the run's checkpoint by itself, saves, and returns early
    when the task is asked to stop: `run.stopping` tells. What is logged is logged to the run. TypeError when
    `trainer` is no Trainer.
    """
    if not (isinstance(trainer, type) and issubclass(trainer, pl.Trainer)):
        raise TypeError(f"resumable() takes {pl.__name__}.Trainer or a class made from it, got {trainer!r}")
    return type(trainer.__name__, (_Resumable, trainer), {"__doc__": trainer.__doc__})


class _Resumable(pl.Trainer):
    """What `resumable()` puts before a Trainer."""

    fit_loop: Any
    _fitted: Run | None = None

    def __init__(
        self,
        *,
        checkpoint_every_n_steps: int | None = None,
        monitor: str | None = None,
        mode: str = "min",
        **kwargs: Any,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f'mode is "min" or "max", got {mode!r}')
        plugins = _listed(kwargs.pop("plugins", None))
        callbacks = _listed(kwargs.pop("callbacks", None))
        logger = kwargs.pop("logger", None)
        _refuse(kwargs, plugins, callbacks)
        self.run = init()
        self.every, self.monitor, self.greater = checkpoint_every_n_steps, monitor, mode == "max"
        self.saved: Mapping[str, Any] | None = None
        self.rates: list[list[float]] = []
        self.batches: CountedBatches | None = None
        self.loader: Any = None
        self.validated: int | None = None
        kwargs |= {
            "enable_checkpointing": False,
            "plugins": [*plugins, _NoFiles(self)],
            "callbacks": [*callbacks, _Rates()],
            "logger": [*([] if isinstance(logger, bool) else _listed(logger)), _RunLogger(self)],
        }
        super().__init__(**kwargs)
        if not isinstance(self.strategy, part("strategies").SingleDeviceStrategy):
            raise ValueError(
                f"a resumable run trains in one process on one device, here is {type(self.strategy).__name__} "
                f"with {self.world_size}; set devices=1"
            )
        fit, epoch = self.fit_loop, self.fit_loop.epoch_loop
        self.fit_loop = FitLoop(self, min_epochs=fit.min_epochs, max_epochs=fit.max_epochs)
        self.fit_loop.epoch_loop = EpochLoop(self, min_steps=epoch.min_steps, max_steps=epoch.max_steps)

    def fit(self, *args: Any, ckpt_path: Any = None, **kwargs: Any) -> None:
        """Train, or go on; ValueError when the checkpoint is not of this training."""
        if ckpt_path is not None:
            raise ValueError("leave fit(ckpt_path=…) out: the run knows the checkpoint that it goes on from")
        if _Resumable._fitted is self.run:
            raise RuntimeError(
                "this run was trained already: a run has one fit(), so make another task of the next"
            )
        _Resumable._fitted = self.run
        resumed = self.run.resumed
        if resumed is not None:
            self.run.resume()
            if _PART not in resumed.state:
                raise ValueError(
                    f"the checkpoint of step {resumed.step} was not saved by this adapter: it has no {_PART!r}"
                )
            self.saved = resumed.state[_PART]
            ckpt_path = f"step {resumed.step} of {self.run.name}"
        super().fit(*args, ckpt_path=ckpt_path, **kwargs)

    def load(self) -> dict[str, Any]:
        """Return the checkpoint as Lightning knows it."""
        resumed = self.run.resumed
        if resumed is None or self.saved is None:
            raise ValueError("Lightning's checkpoint files are not read in a resumable run: nothing is unpickled")
        return {**self.saved["checkpoint"], "state_dict": resumed.state["model"]}

    def save(self, *, place: int | None, ended: bool = False) -> None:
        """Save after `place` batches of an epoch, or after a whole one."""
        checkpoint = self._checkpoint_connector.dump_checkpoint(weights_only=False)
        for name in _HYPER_PARAMETERS:
            checkpoint.pop(name, None)  # any objects of the user's; a resumed run has its own
        connector = self._logger_connector
        parts = {
            "model": checkpoint.pop("state_dict"),
            _PART: {
                "checkpoint": checkpoint,
                "place": place,
                "begun": self.batches.begun if self.batches is not None and place is not None else None,
                "batch": batch_of(self),
                "rates": self.rates,
                "metrics": {name: value.detach() for name, value in connector._callback_metrics.items()},
                "results": self.fit_loop.epoch_loop.results() if place is not None else {},
                "meters": [meter_state(one) for one in meters(self)] if place is not None else [],
                "should_stop": bool(self.should_stop),
                "loaded_in_epoch": self.fit_loop._last_train_dl_reload_epoch,
                "ended": ended,
            },
        }
        score = None
        if self.monitor is not None and self.validated == self.global_step:
            score = float(connector._callback_metrics[self.monitor])
        self.run.checkpoint(self.global_step, score=score, greater_is_better=self.greater, final=ended, **parts)

    def save_if_due(self, place: int | None) -> None:
        """Save where it is due; when the task is asked to stop, leave the training as well."""
        if self.run.should_stop():
            self.save(place=place)
            raise Paused
        if self.run.checkpoint_due(every_steps=self.every, step=self.global_step):
            self.save(place=place)


class _Rates(pl.Callback):
    """Note the learning rates that the optimisers are made with, before a checkpoint's are loaded."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.rates = rates_of(trainer.optimizers)


class _NoFiles(_checkpoint_io.CheckpointIO):
    """Lightning's way to its checkpoint files, which there are none of."""

    def __init__(self, trainer: _Resumable) -> None:
        self._trainer = trainer

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        raise RuntimeError(
            f"save_checkpoint({str(path)!r}) would pickle: the run saves its checkpoints itself; leave a model by "
            'safetensors.torch.save_model(model, run.output / "model.safetensors")'
        )

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return self._trainer.load()

    def remove_checkpoint(self, path: Any) -> None:
        return None


class _RunLogger(part("loggers.logger").Logger):  # type: ignore[misc]
    """Log to the run, by optimiser steps."""

    def __init__(self, trainer: _Resumable) -> None:
        super().__init__()
        self._trainer = trainer

    @property
    def name(self) -> str:
        return self._trainer.run.name

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        trainer = self._trainer
        # A validation inside a step's accumulation belongs to the step that is being made.
        step = trainer.global_step + int(trainer.fit_loop.epoch_loop._should_accumulate())
        if trainer.monitor is not None and trainer.monitor in metrics:
            trainer.validated = step
        total = trainer.max_steps
        if total == -1 and trainer.max_epochs not in (None, -1) and isinstance(trainer.num_training_batches, int):
            total = -(-trainer.num_training_batches // trainer.accumulate_grad_batches) * trainer.max_epochs
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        trainer.run.log(step, numbers, total if total > 0 else None)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return None


def _refuse(arguments: Mapping[str, Any], plugins: list[Any], callbacks: list[Any]) -> None:
    """Refuse what would write Lightning's own checkpoint files."""
    if arguments.get("enable_checkpointing"):
        raise ValueError(
            "leave enable_checkpointing out: the run saves; say how often by checkpoint_every_n_steps"
        )
    wrong = [
        one
        for one in (*plugins, *callbacks)
        if isinstance(one, _checkpoint_io.CheckpointIO | pl.callbacks.Checkpoint)
    ]
    if wrong:
        raise ValueError(
            f"leave {type(wrong[0]).__name__} out: in a resumable run there are no files of Lightning's"
        )


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]
