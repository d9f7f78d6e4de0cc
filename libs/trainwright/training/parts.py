"""What a part of a checkpoint can be, and how its state is taken and put back in place.

Not here: how a state is kept (state.py).
"""

import random
import sys
from typing import Any


def state_of(part: Any) -> Any:
    """Return the state that a part has, or is."""
    found = getattr(part, "state_dict", None)
    if callable(found):
        return found()
    if isinstance(part, random.Random):
        return part.getstate()
    if _is("torch", "Generator", part):
        return part.get_state()
    if _is("numpy.random", "Generator", part):
        return part.bit_generator.state
    return part


def check_fillable(name: str, part: Any) -> None:
    """Raise TypeError when a part cannot be filled in place."""
    if callable(getattr(part, "load_state_dict", None)) and callable(getattr(part, "state_dict", None)):
        return
    if part is None or isinstance(part, dict | list | random.Random) or _is_array(part) or _is_generator(part):
        return
    raise TypeError(
        f"{name} is a {type(part).__name__}, which cannot be filled in place: pass an object with state_dict() "
        "and load_state_dict(), a dict, a list, an array, a tensor or a generator, "
        f"or read run.resumed.state[{name!r}]"
    )


def fill(name: str, part: Any, state: Any) -> None:
    """Put a state into a part; what `load_state_dict()` raises passes through. None stays None."""
    if callable(getattr(part, "load_state_dict", None)):
        part.load_state_dict(state)
    elif isinstance(part, dict):
        part.clear()
        part.update(state)
    elif isinstance(part, list):
        part[:] = state
    elif isinstance(part, random.Random):
        part.setstate(state)
    elif _is("torch", "Generator", part):
        part.set_state(state)
    elif _is("numpy.random", "Generator", part):
        part.bit_generator.state = state
    elif part is not None:
        _fill_array(name, part, state)


def _fill_array(name: str, part: Any, state: Any) -> None:
    if (getattr(state, "shape", None), getattr(state, "dtype", None)) != (part.shape, part.dtype):
        saved = (
            f"{tuple(state.shape)} of {state.dtype}" if hasattr(state, "shape") else f"a {type(state).__name__}"
        )
        raise ValueError(f"{name} is {tuple(part.shape)} of {part.dtype}; the checkpoint holds {saved}")
    if _is("torch", "Tensor", part):
        part.detach().copy_(state)
    else:
        part[...] = state


def _is_array(part: Any) -> bool:
    return _is("torch", "Tensor", part) or _is("numpy", "ndarray", part)


def _is_generator(part: Any) -> bool:
    return _is("torch", "Generator", part) or _is("numpy.random", "Generator", part)


def _is(module: str, name: str, part: Any) -> bool:
    """Return whether a part is of a library's class, without importing the library."""
    found = sys.modules.get(module)
    return found is not None and isinstance(part, getattr(found, name))
