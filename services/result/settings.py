"""Settings of the result service (prefix ``RESULT_``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ResultSettings(BaseSettings):
    """How reports are rendered."""

    model_config = SettingsConfigDict(env_prefix="RESULT_", frozen=True, extra="ignore")

    render_seconds: float = Field(90, gt=0, description="Time for one report, after which its process is killed.")
    idle_seconds: float = Field(20, gt=0, description="Time without work after which the process that draws ends.")
    report_wait: float = Field(
        10, ge=0, description="How long a request waits for a report that is being rendered."
    )
    drawn_limit: int = Field(32 * 1024**2, description="Bytes of a file of a bundle that a report still reads.")
