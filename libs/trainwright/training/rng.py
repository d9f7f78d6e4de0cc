"""What decides the bits of a training besides its state: the random generators, the versions, the threads.

Only libraries that the process uses already are asked: nothing is imported that the user did not import.
Not here: when it is taken and restored (saving.py).
"""

import platform
import random
import sys
from typing import Any

# Another value of one of these may change the last bit of a sum.
_DECIDES = ("torch", "device", "device_name", "cpu_capability", "machine", "deterministic")


def random_state() -> dict[str, Any]:
    """Return the state of every global generator: Python's, numpy's, torch's, each CUDA device's."""
    found: dict[str, Any] = {"python": random.getstate()}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        found["numpy"] = numpy.random.get_state(legacy=False)
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore_random(state: dict[str, Any]) -> None:
    """Set every generator that `state` has and this process can have."""
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(saved, device)


def environment() -> dict[str, Any]:
    """Return what decides the bits besides the state, as JSON."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        found["numpy"] = numpy.__version__
    if torch is not None:
        cuda = torch.cuda.is_initialized()
        found |= {
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "device": "cuda" if cuda else "cpu",
            "device_name": torch.cuda.get_device_name() if cuda else None,
            "devices": torch.cuda.device_count() if cuda else 0,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    return found


def restore_environment(saved: dict[str, Any]) -> list[str]:
    """Set torch's threads as they were and return what else is different now, for people."""
    if "torch" not in saved:
        return []
    import torch

    if isinstance(saved.get("threads"), int):
        torch.set_num_threads(saved["threads"])
    now = environment()
    return [
        f"{name} was {saved[name]!r}, is {now[name]!r}"
        for name in _DECIDES
        if name in saved and saved[name] != now[name] and not _is_undecided(name, saved, now)
    ]


def _is_undecided(name: str, saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """CUDA starts when it is first used: before that a process cannot be said to train on the CPU."""
    return (
        name in ("device", "device_name")
        and saved.get("device") == "cuda"
        and now["device"] == "cpu"
        and _has_cuda()
    )


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
