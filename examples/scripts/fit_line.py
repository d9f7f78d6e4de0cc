"""Fit a line to noisy points by gradient descent: a whole training without torch, in a few seconds.

Alone: `python examples/scripts/fit_line.py`; as a task: `trainwright run examples/scripts/fit_line.py`.
"""

import argparse
import json
import random
import time

import trainwright


def main() -> None:
    """Train, report every step, leave the line in the run's output."""
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--rate", type=float, default=0.05)
    options.add_argument("--pause", type=float, default=0.02, help="seconds to rest after each step")
    wanted = options.parse_args()

    run = trainwright.init()
    noise = random.Random(1)
    points = [(x / 25 - 2, 3 * (x / 25 - 2) + 1 + noise.gauss(0, 0.3)) for x in range(100)]
    slope, offset = 0.0, 0.0
    print(f"fitting a line to {len(points)} points in {wanted.steps} steps")
    for step in range(1, wanted.steps + 1):
        errors = [slope * x + offset - y for x, y in points]
        slope -= wanted.rate * 2 * sum(e * x for e, (x, _) in zip(errors, points, strict=True)) / len(points)
        offset -= wanted.rate * 2 * sum(errors) / len(points)
        run.log(step, {"loss": sum(e * e for e in errors) / len(points)}, total_steps=wanted.steps)
        if run.should_stop():
            print(f"asked to stop at step {step}")
            break
        time.sleep(wanted.pause)
    print(f"y = {slope:.3f} x + {offset:.3f}")
    (run.output / "line.json").write_text(json.dumps({"slope": slope, "offset": offset}))


if __name__ == "__main__":
    main()
