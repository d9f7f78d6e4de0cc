"""Lightning's two training loops, made to save where nothing is half done and to start again from there.

Not here: what a checkpoint holds, and what else a Trainer is given (lightning.py).
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch.utils.data import IterableDataset

from trainwright.training.adapters.parts import BEGIN, counted
from trainwright.training.rates import change_rates
from trainwright.training.rng import restore_random

# Lightning comes under two names, whose classes know nothing of each other: the one that the script uses is meant.
_UNIFIED = "lightning.pytorch" in sys.modules or find_spec("pytorch_lightning") is None
pl: Any = import_module("lightning.pytorch" if _UNIFIED else "pytorch_lightning")

_COUNTS = ("ready", "started", "processed", "completed")


def part(name: str) -> Any:
    """Return a module of Lightning's."""
    return import_module(f"{pl.__name__}.{name}")


def fabric_part(name: str) -> Any:
    """Return a module of the lower layer of Lightning."""
    return import_module(f"{'lightning.fabric' if _UNIFIED else 'lightning_fabric'}.{name}")


class Paused(part("utilities.exceptions")._TunerExitException):  # type: ignore[misc]
    """Leaves `fit()` in the middle, without the hooks of an end or of a failure."""


class FitLoop(part("loops.fit_loop")._FitLoop):  # type: ignore[misc]
    """Lightning's loop over epochs; saves after one, and takes up what a checkpoint has."""

    def run(self) -> None:
        saved = self.trainer.saved
        if saved is not None and saved["ended"]:
            restore_random(self.trainer.run.resumed.state.random())
            return
        super().run()

    def setup_data(self) -> None:
        strategy = self.trainer.strategy
        strategy.process_dataloader = self._counted  # the one hook between a loader and its iterator
        try:
            super().setup_data()
        finally:
            del strategy.process_dataloader

    def reset(self) -> None:
        saved = self.trainer.saved
        if saved is not None and saved["place"] is None:
            # Nothing was half done: a new epoch begins as any other does.
            part("loops.loop")._Loop.restarting.fset(self, False)
            for loop in (self, self.epoch_loop):
                loop._loaded_from_state_dict = loop._resuming_from_checkpoint = False
        if saved is not None and saved["place"] is not None:
            self._rescale(saved["batch"])
        super().reset()

    def on_run_start(self) -> None:
        trainer = self.trainer
        if trainer.saved is not None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            change_rates(trainer.optimizers, schedulers, trainer.saved["rates"], trainer.rates)
        super().on_run_start()

    def on_advance_start(self) -> None:
        trainer = self.trainer
        saved, trainer.saved = trainer.saved, None
        if saved is not None:
            self._last_train_dl_reload_epoch = saved["loaded_in_epoch"]
            trainer.should_stop = saved["should_stop"]
            trainer._logger_connector._callback_metrics = dict(saved["metrics"])
            self.epoch_loop.pending = dict(saved["results"])
            for meter, state in zip(meters(trainer), saved["meters"], strict=False):
                load_meter(meter, state)
            if saved["place"] is None:
                restore_random(trainer.run.resumed.state.random())
        super().on_advance_start()

    def on_advance_end(self) -> None:
        super().on_advance_end()
        if not self.ends():
            self.trainer.save_if_due(None)

    def on_run_end(self) -> None:
        super().on_run_end()
        self.trainer.save(place=None, ended=True)

    def ends(self) -> bool:
        """Return what `done` will say, which it says aloud."""
        steps, epochs = self.epoch_loop.max_steps, self.max_epochs
        return bool(
            (steps != -1 and self.epoch_loop.global_step >= steps)
            or (epochs != -1 and self.epoch_progress.current.processed >= epochs)
            or (self.trainer.should_stop and self._can_stop_early)
        )

    def _counted(self, loader: Any) -> Any:
        trainer = self.trainer
        loader = type(trainer.strategy).process_dataloader(trainer.strategy, loader)
        if trainer.loader is not None and self._combined_loader is None:
            raise ValueError("a resumable run reads from one training loader; combine the data sets instead")
        trainer.loader, trainer.batches = loader, counted(loader, ahead=False)
        if trainer.batches is None and not hasattr(loader, "load_state_dict"):
            what = (
                "an IterableDataset"
                if isinstance(getattr(loader, "dataset", None), IterableDataset)
                else "no place"
            )
            raise ValueError(
                f"the training loader, {type(loader).__name__} with {what}, cannot go on inside an epoch; "
                "use a DataLoader over a dataset with len() and [], or a loader with state_dict()"
            )
        saved = trainer.saved
        if saved is not None and saved["place"] is not None and trainer.batches is not None:
            skip = saved["place"] * _factor(saved["batch"], batch_of(trainer))
            states = {BEGIN: saved["begun"], int(skip): trainer.run.resumed.state.random()}
            trainer.batches.go_on(int(skip), states)
        return loader

    def _rescale(self, batch: Mapping[str, Any]) -> None:
        """Count batches as of now: a repair may have made them smaller, and a step of more of them."""
        factor = _factor(batch, batch_of(self.trainer))
        for progress in (self.epoch_loop.batch_progress.current, self.epoch_loop.batch_progress.total):
            for count in _COUNTS:
                setattr(progress, count, int(getattr(progress, count) * factor))


class EpochLoop(part("loops.training_epoch_loop")._TrainingEpochLoop):  # type: ignore[misc]
    """Lightning's loop over an epoch's batches; saves between two of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pending: dict[str, dict[str, Any]] = {}

    def advance(self, data_fetcher: Any) -> None:
        self._restarting = False  # what was due after the last batch was done before the checkpoint was taken
        super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        self._take_up()
        super().on_advance_end(data_fetcher)
        trainer = self.trainer
        if not (self._num_ready_batches_reached() or self._should_accumulate() or trainer.fit_loop.ends()):
            trainer.save_if_due(self.batch_progress.current.ready)

    def results(self) -> dict[str, dict[str, Any]]:
        """Return the sums behind an epoch's means (and its minima and so on), so far."""
        found = {
            key: {"value": metric.value, "size": getattr(metric, "cumulated_batch_size", None)}
            for key, metric in self._results.items()
            if metric.is_tensor and metric.meta.on_epoch and not metric.has_reset
        }
        return {**self.pending, **found}

    def _take_up(self) -> None:
        """Add what an epoch had summed up before the checkpoint to the values that are there since."""
        for key in [key for key in self.pending if key in self._results and not self._results[key].has_reset]:
            before, metric = self.pending.pop(key), self._results[key]
            value = before["value"].to(metric.value.device)
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(value, metric.value)
            else:
                metric.value = value + metric.value
            if before["size"] is not None:
                metric.cumulated_batch_size = before["size"].to(metric.value.device) + metric.cumulated_batch_size


def batch_of(trainer: Any) -> dict[str, Any]:
    """Return what says where a place in an epoch is."""
    dataset: Any = getattr(trainer.loader, "dataset", None)
    return {
        "size": getattr(trainer.loader, "batch_size", None),
        "accumulate": trainer.accumulate_grad_batches,
        "examples": len(dataset) if hasattr(dataset, "__len__") else None,
    }


def _factor(saved: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Return how many batches of now one of the checkpoint's is; ValueError when a step has other examples."""
    if saved["examples"] != now["examples"]:
        raise ValueError(
            f"the data had {saved['examples']} examples, has {now['examples']} now; use the same data"
        )
    if saved["size"] == now["size"] and saved["accumulate"] == now["accumulate"]:
        return 1.0
    if (
        not saved["size"]
        or not now["size"]
        or saved["size"] * saved["accumulate"] != now["size"] * now["accumulate"]
    ):
        raise ValueError(
            f"a step: {saved['accumulate']} batches of {saved['size']}, now {now['accumulate']} of {now['size']}; "
            "change batch_size and accumulate_grad_batches by the same factor"
        )
    return float(saved["size"]) / float(now["size"])


def meters(trainer: Any) -> list[Any]:
    return [
        one for one in trainer.lightning_module.modules() if isinstance(one, import_module("torchmetrics").Metric)
    ]


def meter_state(meter: Any) -> dict[str, Any]:
    return {"count": meter._update_count, "state": {name: getattr(meter, name) for name in meter._defaults}}


def load_meter(meter: Any, saved: Mapping[str, Any]) -> None:
    meter._update_count = saved["count"]
    for name, value in saved["state"].items():
        held = [one.to(meter.device) for one in value] if isinstance(value, list) else value.to(meter.device)
        setattr(meter, name, held)
