"""Checks of what a script hands to `run.log()`: clear errors for people, no cost for the usual case.

Not here: encoding, writing.
"""

import operator
from collections.abc import Mapping
from typing import Any

MAX_NAME = 200
STEP_END = 2**63
"""Steps are below: what a store's integer holds."""


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return `metrics` with every value a float; NaN and infinities pass.

    Numbers of numpy and torch (one element) are accepted. TypeError or ValueError name the metric and say
    what to pass.
    """
    if type(metrics) is dict:
        for name, value in metrics.items():
            if type(value) is not float or type(name) is not str or len(name) > MAX_NAME or not name:
                break
        else:
            return metrics
    if not isinstance(metrics, Mapping):
        raise TypeError(f'metrics must be a dict such as {{"loss": 0.5}}, got {type(metrics).__name__}')
    return {_checked_name(name): _as_float(name, value) for name, value in metrics.items()}


def checked_step(step: Any, what: str = "step") -> int:
    """Return `step` as a plain int ≥ 0, or raise TypeError / ValueError naming `what`."""
    if isinstance(step, bool):
        raise TypeError(f"{what} must be an integer, got {step!r}")
    try:
        number = operator.index(step)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {step!r} ({type(step).__name__})") from None
    if not 0 <= number < STEP_END:
        raise ValueError(f"{what} must be between 0 and 2**63 - 1, got {number}")
    return number


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a metric's name must be a string, got {name!r} ({type(name).__name__})")
    if not name or len(name) > MAX_NAME:
        raise ValueError(f"a metric's name must have 1 to {MAX_NAME} characters, got {len(name)}: {name[:40]!r}")
    return str(name)


def _as_float(name: str, value: Any) -> float:
    if isinstance(value, float | int):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"metric {name!r} is an integer too large for a float") from None
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item"):
        # item() takes one element whatever the shape, and does not warn about gradients as float() does.
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):
            raise ValueError(
                f"metric {name!r} must be one number, got shape {tuple(shape)}; log its mean or one element"
            ) from None
    if isinstance(value, str | bytes | complex) or not hasattr(value, "__float__"):
        raise TypeError(f"metric {name!r} must be a number, got {value!r} ({type(value).__name__})")
    return float(value)
