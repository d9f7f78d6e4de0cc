"""How long tests wait for what has to come: limits that tell never from late, not figures of speed."""

import time

FACTOR = 4  # Three tests at a time, their Kafkas and trainings beside, leave a test a quarter of two cores.


def patient(seconds: float) -> float:
    """Return the monotonic time after which what takes so many seconds on an idle machine comes no more."""
    return time.monotonic() + FACTOR * seconds
