"""A loop without torch: gradient descent with momentum on arrays, shuffled, noisy, by explicit calls.

Not here: torch, which takes longer to import than this run to train.
"""

import os
import random
import time
from typing import Any

import numpy as np

import trainwright

STEPS, SAVE_EVERY, PAUSE = 40, 3, 0.01
PLANTED = os.environ.get("KILL_POINTS_PLANTED", "")

random.seed(3)
np.random.seed(3)
x = np.random.standard_normal((60, 200))
y = x @ np.linspace(-1, 1, 200)
state: dict[str, Any] = {
    "weights": np.zeros(200),
    "momentum": np.zeros(200),
    "order": np.random.permutation(60),
    "place": 0,
}

run = trainwright.init()
first = run.resume(state=state) + 1
if first > 1 and PLANTED == "random":
    np.random.seed(4)
for step in range(first, STEPS + 1):
    if state["place"] >= 60:
        state["order"], state["place"] = np.random.permutation(60), 0
    rows = state["order"][state["place"] : state["place"] + 8]
    state["place"] += 8
    error = x[rows] @ state["weights"] - y[rows] + random.gauss(0, 0.1)
    state["momentum"] = 0.9 * state["momentum"] + x[rows].T @ error / len(rows)
    state["weights"] = state["weights"] - 1e-3 * state["momentum"]
    time.sleep(PAUSE)
    run.log(step, {"loss": float(np.square(error).mean())}, total_steps=STEPS)
    if run.should_stop():
        run.checkpoint(step, wait=True, state=state)
        raise SystemExit
    if run.checkpoint_due(every_steps=SAVE_EVERY, step=step):
        run.checkpoint(step, state=state)
np.savez(run.output / "weights.npz", weights=state["weights"], drawn=[random.random(), np.random.rand()])
