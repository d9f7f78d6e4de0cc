"""Settings of the result service (prefix ``RESULT_``)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings


class ResultSettings(EnvironmentSettings):
    """How reports are rendered, and checkpoints swept."""

    model_config = SettingsConfigDict(env_prefix="RESULT_", frozen=True, extra="ignore")

    render_seconds: float = Field(90, gt=0, description="Time for one report, after which its process is killed.")
    idle_seconds: float = Field(20, gt=0, description="Time without work after which the process that draws ends.")
    report_wait: float = Field(
        10, ge=0, description="How long a request waits for a report that is being rendered."
    )
    drawn_limit: int = Field(32 * 1024**2, description="Bytes of a file of a bundle that a report still reads.")
    sweep_every: float = Field(300, gt=0, description="Pause between two looks at the files of all checkpoints.")
    sweep_grace: float = Field(
        600,
        ge=0,
        description="How long a file is left that no checkpoint needs: it may belong to one that is on its way.",
    )
