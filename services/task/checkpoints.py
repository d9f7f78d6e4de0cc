"""Which checkpoints a task can go on from. Pure: no I/O, no clock.

Not here: which of them are kept for how long (``contracts/checkpoint.py``), their files (the worker, the result
service).
"""

from collections.abc import Sequence

from trainwright.contracts.attempt import AttemptDocument
from trainwright.contracts.checkpoint import Checkpoint, kept_of


def folded(known: list[Checkpoint], attempt: AttemptDocument) -> list[Checkpoint]:
    """Return a task's checkpoints with those that its newest attempt lists now.

    What earlier attempts saved after the step that this one went on from is no past of it: those could not be
    read, or belong to steps that were given up. They go as soon as it has one of its own.
    """
    if not attempt.checkpoints:
        return known
    past = [one for one in known if one.attempt != attempt.attempt and one.step <= attempt.resume_step]
    return kept_of([*past, *attempt.checkpoints])


def good(known: list[Checkpoint], bad_step: int | None, resumed_from: int) -> list[Checkpoint]:
    """Return those of before a divergence.

    An attempt whose first step was bad already shows that the checkpoint it went on from was bad too.
    """
    if bad_step is None:
        return known
    limit = resumed_from if 0 < bad_step <= resumed_from + 1 else bad_step
    return [one for one in known if one.step < limit]


def newest_step(known: Sequence[Checkpoint]) -> int | None:
    """Return the step to go on from; None means from the beginning."""
    return known[0].step if known else None


def going_on(step: int | None) -> str:
    """Return where the next attempt goes on from, in words."""
    return "starts from the beginning" if step is None else f"goes on from step {step}"
