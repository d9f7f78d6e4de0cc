"""The run context of a rank above 0: it resumes and stops with the others, and leaves the rest to rank 0."""

from collections.abc import Mapping
from typing import Any

from trainwright.training.context import Run
from trainwright.training.values import checked_metrics, checked_step


class Follower(Run):
    """A run that neither logs nor saves; what it is given is checked as rank 0 would check it."""

    def log(self, step: int, metrics: Mapping[str, Any], total_steps: int | None = None) -> None:
        """Note the step; rank 0 records the values."""
        checked_metrics(metrics)
        if self.finished or self._foreign:
            self._refuse()
        self._step = checked_step(step)

    def checkpoint(self, step: int, **parts: Any) -> None:
        """Leave it to rank 0."""
        checked_step(step)
        if self.finished or self._foreign:
            self._refuse("checkpoint")

    def checkpoint_due(
        self, every_steps: int | None = None, every_seconds: float | None = None, *, step: int | None = None
    ) -> bool:
        """Return False: only rank 0 saves."""
        return False

    def finish(self) -> None:
        """Say what is left behind."""
        if not (self.finished or self._foreign) and any(self.output.iterdir()):
            self.warn("this is not rank 0: what it left in `output` is not kept")
        super().finish()
