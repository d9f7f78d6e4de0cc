"""A plain loop that resumes and saves by explicit calls."""

import sys

import trainwright
from tests.faults.runs.small import SAVE_EVERY, STEPS, Training

run = trainwright.init()
training = Training()
first = run.resume(**training.parts()) + 1
if first > 1:
    training.resumed()
for step in range(first, STEPS + 1):
    run.log(step, training.step(), total_steps=STEPS)
    if run.should_stop():
        run.checkpoint(step, wait=True, **training.parts())
        sys.exit()
    if run.checkpoint_due(every_steps=SAVE_EVERY, step=step):
        run.checkpoint(step, **training.parts())
training.save(str(run.output / "model.safetensors"))
