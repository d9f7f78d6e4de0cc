"""Settings of the result service (prefix ``RESULT_``)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Patience, Seconds, Size


class ResultSettings(EnvironmentSettings):
    """How reports are rendered, and checkpoints swept."""

    model_config = SettingsConfigDict(env_prefix="RESULT_", frozen=True, extra="ignore")

    render_seconds: Seconds = Field(90, description="Time for one report, after which its process is killed.")
    idle_seconds: Seconds = Field(20, description="Time without work after which the process that draws ends.")
    report_wait: Patience = Field(10, description="How long a request waits for a report that is being rendered.")
    drawn_limit: Size = Field(32 * 1024**2, description="Bytes of a file of a bundle that a report still reads.")
    sweep_every: Seconds = Field(300, description="Pause between two looks at the files of all checkpoints.")
    sweep_grace: Patience = Field(
        600,
        description="How long a file is left that no checkpoint needs: it may belong to one that is on its way.",
    )
