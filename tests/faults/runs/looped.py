"""Our loop, in which memory runs short from a step on; nothing random is carried, the journal is.

KILL_POINTS_PLANTED=loop forgets the journal.
"""

import json
from typing import Any

import torch

import trainwright
from tests.faults.runs.small import BATCH, PLANTED, ROWS, SAVE_EVERY, STEPS, Training
from trainwright.training.loop import Loop

SHORT_FROM, MOST = 14, 5
"""The step from which no more rows than these fit."""

run = trainwright.init()
training = Training()
model, optimizer = training.model, training.optimizer
loop = Loop(seed=3, batch=BATCH, learning_rate=0.001)
parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loop": loop}
for step in run.steps(STEPS, checkpoint_every=SAVE_EVERY, **{n: p for n, p in parts.items() if n != PLANTED}):

    def compute(rows: list[slice], step: int = step) -> float:
        chosen = torch.randint(ROWS, (BATCH,))
        loss = 0.0
        for part in rows:
            found = model(training.x[chosen[part]])
            if step >= SHORT_FROM and len(found) > MOST:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            share = (found - training.y[chosen[part]]).square().sum() / BATCH
            share.backward()
            loss += float(share.detach())
        return loss

    training.pause()
    loss = loop.gradients(step, [model], compute)
    optimizer.step()
    run.log(step, {"loss": loss})
if not run.stopping:
    training.save(str(run.output / "model.safetensors"))
    (run.output / "journal.json").write_text(json.dumps(loop.journal))
