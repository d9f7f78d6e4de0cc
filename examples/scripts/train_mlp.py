"""A network in torch that can be stopped and killed at any step and ends with the same weights, to the last bit.

It tells weeks of strong and weak sales apart, as softmax_numpy.py does. Everything that the next step depends on
is a part of `run.steps()`: the weights, the optimiser's momentum, the learning rate's schedule, and where the
shuffled batches are. The random generators, here dropout's, are always saved.
Alone: `python examples/scripts/train_mlp.py`, and after Ctrl-C `TRAINWRIGHT_RESUME=1 python …`; as a task, with
the data's absolute path:
`trainwright run examples/scripts/train_mlp.py -- $PWD/examples/data/walmart_sales_weekly.csv`.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import trainwright

SALES = Path(__file__).resolve().parent.parent / "data" / "walmart_sales_weekly.csv"


def windows(path: Path, lags: int) -> tuple[Tensor, Tensor]:
    """Return the last `lags` weeks of each department, scaled, and whether the next week was above their mean."""
    series: dict[str, list[float]] = defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            series[row["Dept"]].append(float(row["Weekly_Sales"]))
    inputs, labels = [], []
    for values in series.values():
        weeks = torch.tensor(values, dtype=torch.float64)
        for end in range(lags, len(weeks)):
            past = weeks[end - lags : end]
            inputs.append((past - past.mean()) / (past.std() + 1e-6))
            labels.append(weeks[end] > past.mean())
    return torch.stack(inputs).float(), torch.stack(labels).float()


class Batches:
    """Batches in an order that is drawn anew for each epoch, and that can be taken up again in its midst."""

    def __init__(self, inputs: Tensor, labels: Tensor, size: int, seed: int) -> None:
        self._inputs, self._labels, self._size = inputs, labels, size
        self._shuffle = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the next batch."""
        if self._next >= len(self._order):
            self._order, self._next = torch.randperm(len(self._labels), generator=self._shuffle), 0
        chosen = self._order[self._next : self._next + self._size]
        self._next += self._size
        return self._inputs[chosen], self._labels[chosen]

    def state_dict(self) -> dict[str, Any]:
        """Return where it is."""
        return {"shuffle": self._shuffle.get_state(), "order": self._order, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._shuffle.set_state(state["shuffle"])
        self._order, self._next = state["order"], state["next"]


def main() -> None:
    """Train, save every 50 steps, leave the weights in the run's output."""
    sales = sys.argv[1] if len(sys.argv) > 1 else str(SALES)
    run = trainwright.init({"data": sales, "lags": 12, "steps": 400, "rate": 0.05, "save_every": 50, "seed": 1})
    options = run.parameters
    torch.manual_seed(options["seed"])
    lags = options["lags"]
    batches = Batches(*windows(Path(options["data"]), lags), size=64, seed=options["seed"])
    model = nn.Sequential(nn.Linear(lags, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=options["rate"], momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options["steps"])
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches}
    for step in run.steps(options["steps"], checkpoint_every=options["save_every"], **parts):
        inputs, labels = batches.take()
        found = model(inputs)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(found, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        accuracy = ((found > 0) == (labels > 0.5)).float().mean()
        run.log(step, {"loss": loss, "accuracy": accuracy, "rate": schedule.get_last_lr()[0]})
    if not run.stopping:
        save_file(model.state_dict(), run.output / "model.safetensors")


if __name__ == "__main__":
    main()
