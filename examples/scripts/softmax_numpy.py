"""A classifier in numpy: weeks of strong and weak sales told apart by what the department sold before.

Alone: `python examples/scripts/softmax_numpy.py`; as a task, with the data's absolute path:
`trainwright run examples/scripts/softmax_numpy.py -- $PWD/examples/data/walmart_sales_weekly.csv`. It asks
whether it should stop, and leaves its weights either way.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import trainwright

SALES = Path(__file__).resolve().parent.parent / "data" / "walmart_sales_weekly.csv"


def windows(path: Path, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last `lags` weeks of each department, scaled, and whether the next week was above their mean."""
    series: dict[str, list[float]] = defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            series[row["Dept"]].append(float(row["Weekly_Sales"]))
    inputs, labels = [], []
    for values in series.values():
        for end in range(lags, len(values)):
            past = np.array(values[end - lags : end])
            inputs.append((past - past.mean()) / (past.std() + 1e-6))
            labels.append(float(values[end] > past.mean()))
    return np.array(inputs), np.array(labels)


def main() -> None:
    """Train by gradient descent and report every step."""
    sales = sys.argv[1] if len(sys.argv) > 1 else str(SALES)
    run = trainwright.init({"data": sales, "lags": 12, "steps": 300, "rate": 0.5})
    inputs, labels = windows(Path(run.parameters["data"]), int(run.parameters["lags"]))
    steps, rate = int(run.parameters["steps"]), float(run.parameters["rate"])
    weights, offset = np.zeros(inputs.shape[1]), 0.0
    print(f"{len(labels)} windows, {labels.mean():.0%} strong weeks")
    for step in range(1, steps + 1):
        chance = 1 / (1 + np.exp(-(inputs @ weights + offset)))
        loss = -np.mean(labels * np.log(chance + 1e-12) + (1 - labels) * np.log(1 - chance + 1e-12))
        error = chance - labels
        weights -= rate * inputs.T @ error / len(labels)
        offset -= rate * error.mean()
        run.log(step, {"loss": loss, "accuracy": np.mean((chance > 0.5) == labels)}, total_steps=steps)
        if run.should_stop():
            print(f"asked to stop at step {step}")
            break
    np.savez(run.output / "weights.npz", weights=weights, offset=offset)


if __name__ == "__main__":
    main()
