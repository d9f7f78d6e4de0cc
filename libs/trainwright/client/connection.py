"""Where the platform answers, and with which key: from arguments, the environment, or a local home.

Reads files, connects to nothing.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = ".trainwright"
DEFAULT_URL = "http://127.0.0.1:8700"


@dataclass(frozen=True, slots=True)
class Connection:
    """An address and a key, and in words where each of them came from."""

    url: str
    url_source: str
    key: str | None
    key_source: str
    home: Path | None = None


def find_home(home: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the home of a local platform: the one named, TRAINWRIGHT_HOME, or `.trainwright` here or above."""
    named = home or environ.get("TRAINWRIGHT_HOME")
    if named:
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / DEFAULT_HOME).is_dir():
            return folder / DEFAULT_HOME
    return None


def find_connection(
    url: str | None = None,
    key: str | None = None,
    home: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Connection:
    """Return how to reach the platform; what is given wins over the environment, the environment over the home."""
    place = find_home(home, environ)
    found_url, url_source = _first(
        (url, "the --url given"),
        (environ.get("TRAINWRIGHT_URL"), "TRAINWRIGHT_URL"),
        (_state_url(place), f"{place}/state.json"),
        (DEFAULT_URL, "the default address" + (f", as nothing runs on the home {place}" if place else "")),
    )
    found_key, key_source = _first(
        (key, "the --key given"),
        (environ.get("TRAINWRIGHT_API_KEY"), "TRAINWRIGHT_API_KEY"),
        (_key_file(place), f"{place}/api-key"),
    )
    return Connection(
        url=(found_url or DEFAULT_URL).rstrip("/"),
        url_source=url_source,
        key=found_key,
        key_source=key_source,
        home=place,
    )


def read_state(home: Path | None) -> dict[str, object]:
    """Return what the running platform of this home wrote about itself; empty when nothing (readable) is there."""
    if home is None:
        return {}
    try:
        state = json.loads((home / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _first(*choices: tuple[str | None, str]) -> tuple[str | None, str]:
    return next(((value, source) for value, source in choices if value), (None, "nowhere"))


def _state_url(home: Path | None) -> str | None:
    url = read_state(home).get("url")
    return url if isinstance(url, str) else None


def _key_file(home: Path | None) -> str | None:
    if home is None:
        return None
    try:
        return (home / "api-key").read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
