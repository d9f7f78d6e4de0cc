"""The progress line that a local run shows on stderr.

Not here: what a worker shows (the control plane draws from AttemptProgressed).
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

_TTY_SECONDS = 0.1
_LINE_SECONDS = 5.0


class ProgressLine:
    """Keep the newest values and draw them: over the same line on a terminal, a line every 5 s elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self._shown_at = self._started
        self._first_step: int | None = None
        self._latest: tuple[int, Mapping[str, float]] | None = None
        self._total: int | None = None
        self._drawn: tuple[int, Mapping[str, float]] | None = None

    def update(self, step: int, values: Mapping[str, float], total: int | None) -> None:
        """Remember the newest values; cheap."""
        if self._first_step is None:
            self._first_step = step
        if total is not None:
            self._total = total
        self._latest = (step, values)

    def show(self) -> None:
        """Draw when something is new and the last drawing is old enough."""
        now = time.monotonic()
        if self._latest is None or now - self._shown_at < (_TTY_SECONDS if self._terminal else _LINE_SECONDS):
            return
        self._shown_at = now
        self._draw("\r\x1b[K" if self._terminal else "", "" if self._terminal else "\n")

    def close(self, directory: Path) -> None:
        """Draw the last state and say where the files are."""
        self._draw("\r\x1b[K" if self._terminal else "", "\n")
        self._write(f"trainwright: run finished, files in {directory}\n")

    def text(self) -> str:
        """Return the line: step, total, values, speed, time left."""
        if self._latest is None:
            return ""
        step, values = self._latest
        done = step - (self._first_step or 0)
        elapsed = time.monotonic() - self._started
        speed = done / elapsed if elapsed > 0 else 0.0
        parts = [
            f"step {step}/{self._total} ({100 * step / self._total:.0f} %)" if self._total else f"step {step}"
        ]
        parts += [f"{name} {value:.5g}" for name, value in list(values.items())[:6]]
        if speed > 0:
            parts.append(f"{speed:.1f} steps/s")
            if self._total and self._total > step:
                left = int((self._total - step) / speed)
                parts.append(f"{left // 60}:{left % 60:02d} left")
        return "  ".join(parts)

    def _draw(self, before: str, after: str) -> None:
        if self._latest is None or self._latest is self._drawn:
            return
        self._drawn = self._latest
        self._write(before + self.text() + after)

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr was closed: progress is a courtesy
