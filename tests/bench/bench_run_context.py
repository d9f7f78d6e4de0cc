"""What the run context adds to a step: `python tests/bench/bench_run_context.py [steps]`, a few seconds.

The same network is trained with `log()`, `should_stop()` and `checkpoint_due()` in each step and without. The
calls are timed one step at a time, by the thread's CPU clock as well, which does not count what a busy machine
makes it wait; the weights of both must be equal bit for bit.
"""

import os
import statistics
import sys
import tempfile
import time

import torch

import trainwright
from trainwright.training.layout import RUN_DIR_VARIABLE


def train(steps: int, run: "trainwright.Run | None") -> tuple[bytes, list[float], float]:
    """Return the weights, what the calls of each step took in µs, and the mean of their CPU time."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    clock, taken = time.perf_counter_ns, []
    used = 0
    for step in range(1, steps + 1):
        inputs = torch.randn(16, 32)
        loss = (model(inputs)[:, 0] - inputs.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        started, cpu = clock(), time.thread_time_ns()
        if run is not None:
            run.log(step, {"loss": loss, "rate": 0.01}, total_steps=steps)
            run.should_stop()
            run.checkpoint_due(every_steps=10**9, every_seconds=10**9, step=step)
        used += time.thread_time_ns() - cpu
        taken.append((clock() - started) / 1000)
    return b"".join(weight.detach().numpy().tobytes() for weight in model.parameters()), taken, used / steps / 1000


def main() -> None:
    """Train with and without, by turns, and compare."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        os.environ[RUN_DIR_VARIABLE] = folder
        run = trainwright.init()
        run.resume()
        plain, _, _ = train(steps, None)
        weights, taken, used = train(steps, run)
        run.finish()
    ranked = sorted(taken)
    mean, p99 = statistics.fmean(taken), ranked[int(steps * 0.99)]
    sys.stdout.write(
        f"the context's calls of a step, mean of {steps:<8} {mean:8.1f} µs   (goal: ≤ 50 µs)\n"
        f"of it CPU time of the thread                    {used:8.1f} µs\n"
        f"median, 99 of 100 within                        {statistics.median(taken):8.1f} µs, {p99:.1f} µs\n"
        f"weights with and without it                     {'the same bits' if plain == weights else 'DIFFERENT'}\n"
    )
    sys.exit(plain != weights)


if __name__ == "__main__":
    main()
