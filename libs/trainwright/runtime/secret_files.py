"""Settings that must not be in the environment: a file for each, named like its variable, in one folder.

So containers get theirs (`/run/secrets`): an environment is seen by whoever may inspect a container.
"""

import os
from pathlib import Path

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource

VARIABLE = "TRAINWRIGHT_SECRETS"


def secret_files(settings_cls: type[BaseSettings]) -> tuple[PydanticBaseSettingsSource, ...]:
    """Return the folder that ``TRAINWRIGHT_SECRETS`` names as a source of settings; none when it names none.

    Raises:
        ValueError: There is no such folder.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return ()
    if not Path(folder).is_dir():
        raise ValueError(f"{VARIABLE} is {folder}, and there is no such folder")
    return (SecretsSettingsSource(settings_cls, folder),)
