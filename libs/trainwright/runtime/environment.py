"""Where settings come from: the environment, and a file ``.env`` for what the environment does not say."""

import os

from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource

from trainwright.runtime.secret_files import secret_files

VARIABLE = "TRAINWRIGHT_ENV_FILE"


class EnvironmentSettings(BaseSettings):
    """Settings that are read once when they are made; the file is ``.env`` in the working directory, or what
    ``TRAINWRIGHT_ENV_FILE`` names.
    """

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
