"""Settings of the task service (prefix ``TASK_``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TaskSettings(BaseSettings):
    """Limits, and what a caller on the same machine may name."""

    model_config = SettingsConfigDict(env_prefix="TASK_", frozen=True, extra="ignore")

    local_paths: bool = Field(True, description="Take a script from an absolute path of this machine.")
    config_limit: int = Field(48 * 1024, description="Bytes of a resolved task document.")
    file_limit: int = Field(2 * 1024**3, description="Bytes of one uploaded file.")
    script_limit: int = Field(16 * 1024**2, description="Bytes of a script taken from an absolute path.")
