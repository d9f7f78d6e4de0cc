"""Where settings come from: the environment, and a file ``.env`` for what the environment does not say."""

import os
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from trainwright.runtime.secret_files import secret_files

VARIABLE = "TRAINWRIGHT_ENV_FILE"


class Unfit(ValueError):
    """A setting cannot be used; says which and why, as who set it would name it. A process ends with that line."""


def _why(error: ValueError, prefix: str) -> str:
    if not isinstance(error, ValidationError):
        return f"{error}; it wants JSON" if isinstance(error, SettingsError) else str(error)
    problems = []
    for one in error.errors(include_url=False):
        name, *inner = map(str, one["loc"]) if one["loc"] else ("",)
        variable = name if name.isupper() else f"{prefix}{name}".upper() if name else f"{prefix}…"
        where = ".".join([variable, *inner])
        # What a validator of ours refuses is in its message, unless it is a secret.
        value = "" if one["type"] in ("missing", "value_error") else f" is {str(one['input'])[:60]!r}"
        problems.append(f"{where}{value}: {one['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)


class EnvironmentSettings(BaseSettings):
    """Settings that are read once when they are made; the file is ``.env`` in the working directory, or what
    ``TRAINWRIGHT_ENV_FILE`` names.

    Raises:
        Unfit: One of them cannot be used.
    """

    model_config = SettingsConfigDict(allow_inf_nan=False)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValueError as error:
            raise Unfit(_why(error, self.model_config["env_prefix"])) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the one that wins first."""
        named = DotEnvSettingsSource(settings_cls, env_file=os.environ.get(VARIABLE, ".env"))
        return (init_settings, env_settings, named, *secret_files(settings_cls))
