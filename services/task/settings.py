"""Settings of the task service (prefix ``TASK_``)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Seconds, Size


class TaskSettings(EnvironmentSettings):
    """Limits, and what a caller on the same machine may name."""

    model_config = SettingsConfigDict(env_prefix="TASK_", frozen=True, extra="ignore")

    local_paths: bool = Field(True, description="Take a script from an absolute path of this machine.")
    config_limit: Size = Field(48 * 1024, description="Bytes of a resolved task document.")
    file_limit: Size = Field(2 * 1024**3, description="Bytes of one uploaded file.")
    script_limit: Size = Field(16 * 1024**2, description="Bytes of a script taken from an absolute path.")
    archive_days: float = Field(
        30, ge=0, le=36_500, description="Days after which a task that is over is put aside; 0: never."
    )
    archive_every: Seconds = Field(600, description="Seconds between two looks for tasks to put aside.")
