"""Training as events: what a user's script imports, and nothing that it does not use.

Importing this package loads the standard library's lightest parts only; a name is resolved when it is first
used.
Not here: the services, the bus, the client (each is imported by its own path).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainwright.training.context import Run, init

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "init"]

_HOMES = {"Run": "trainwright.training.context", "init": "trainwright.training.context"}


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` and keep the value here."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'trainwright' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
