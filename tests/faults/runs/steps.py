"""The same loop through `run.steps()`, which does the rest."""

import trainwright
from tests.faults.runs.small import SAVE_EVERY, STEPS, Training

run = trainwright.init()
training = Training()
for step in run.steps(STEPS, checkpoint_every=SAVE_EVERY, **training.parts()):
    if run.resumed is not None and step == run.resumed.step + 1:
        training.resumed()
    run.log(step, training.step(), total_steps=STEPS)
if not run.stopping:
    training.save(str(run.output / "model.safetensors"))
