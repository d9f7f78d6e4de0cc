"""The client of one command, made from the options that every command shares."""

import os
import shlex
from typing import TYPE_CHECKING

from trainwright.cli.console import USAGE, CommandError

if TYPE_CHECKING:
    from trainwright.client import Client, TrainwrightError

SHARED_OPTIONS = {"--url": "TRAINWRIGHT_URL", "--key": "TRAINWRIGHT_API_KEY", "--home": "TRAINWRIGHT_HOME"}
"""Options that may stand anywhere in the command line, and the variables that say the same."""

_given: dict[str, str] = {}


def take_shared_options(arguments: list[str]) -> list[str]:
    """Keep the shared options for this command and return the other arguments; what follows `--` is not ours.

    A home is kept in the environment: whatever this command starts means the same one.
    """
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*kept, argument, *rest]
        name, equals, value = argument.partition("=")
        if name in SHARED_OPTIONS:
            value = value if equals else next(rest, "")
            if not value:
                raise CommandError(f"{name} needs a value", USAGE)
            if name == "--home":
                os.environ[SHARED_OPTIONS[name]] = value
            _given[name] = value
        else:
            kept.append(argument)
    return kept


def again(words: str) -> str:
    """Return a command line to type next, for the same platform as this one."""
    shared = "".join(f" {name} {shlex.quote(_given[name])}" for name in ("--home", "--url") if name in _given)
    return f"trainwright {words}{shared}"


def connect(timeout: float = 30.0) -> "Client":
    """Return a client for the platform that the options, the environment or the home name."""
    from trainwright.client import Client

    return Client(_given.get("--url"), _given.get("--key"), timeout=timeout)


def advice(error: "TrainwrightError") -> str:
    """Return an error in one line that also says what to do next."""
    from trainwright.client import Unauthorised, Unreachable
    from trainwright.client.errors import describe

    text = describe(error)
    if isinstance(error, Unreachable) and "--url" in _given:
        return f"{text}; name another address with --url"
    if isinstance(error, Unreachable):
        return f"{text}; start it with `{again('up')}`, or name another address with --url"
    if isinstance(error, Unauthorised):
        return f"{text}; give a valid key with --key or TRAINWRIGHT_API_KEY"
    return text
