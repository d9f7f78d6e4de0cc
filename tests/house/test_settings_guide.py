"""docs/settings.md names every setting of every service, with its default and what its class says of it."""

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from tests.house.house import ROOT
from trainwright.runtime.settings import RuntimeSettings

GUIDE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/settings.py"))


def rows(service: str) -> Iterator[str]:
    """Yield the rows of the guide's table that are a service's own settings."""
    module = importlib.import_module(f"services.{service}.settings")
    for kind in vars(module).values():
        if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.__module__ == module.__name__:
            for name, field in kind.model_fields.items():
                variable = f"{kind.model_config['env_prefix']}{name}".upper()
                yield f"| `{variable}` | {shown(field.default)} | {field.description} |"


def shown(default: Any) -> str:
    """Return a default as people write it in an environment; nothing for none."""
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`" if default not in (None, (), [], {}) and text.strip("*") else ""


@pytest.mark.parametrize("service", SERVICES)
def test_the_guide_has_every_setting_of_a_service(service: str) -> None:
    missing = [row for row in rows(service) if row not in GUIDE]
    assert not missing, "add or correct in docs/settings.md:\n" + "\n".join(missing)


def test_the_guide_has_no_setting_that_no_service_reads() -> None:
    own = [row for service in SERVICES for row in rows(service)]
    prefixes = "|".join({row.split("_")[0].removeprefix("| `") for row in own} - {"TRAINWRIGHT"})
    named = re.findall(rf"^\| `((?:{prefixes}|TRAINWRIGHT_WORKER)_[A-Z_]+)`", GUIDE, flags=re.MULTILINE)
    assert sorted(named) == sorted(row.split("`")[1] for row in own)


def test_the_guide_has_every_setting_that_all_services_share() -> None:
    shared = {f"TRAINWRIGHT_{name}".upper() for name in RuntimeSettings.model_fields if name != "otlp_endpoint"}
    assert [name for name in sorted(shared) if f"`{name}`" not in GUIDE] == []
