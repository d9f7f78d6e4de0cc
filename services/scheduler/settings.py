"""Settings of the scheduler (prefix ``SCHEDULER_``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SchedulerSettings(BaseSettings):
    """How patient the scheduler is. All in seconds."""

    model_config = SettingsConfigDict(env_prefix="SCHEDULER_", frozen=True, extra="ignore")

    lease: float = Field(8, description="Silence of a worker, while the scheduler is healthy, until it is lost.")
    probe_every: float = Field(2, description="Between probes of the scheduler's own path through Kafka.")
    probe_late: float = Field(2, description="Round trip of a probe from which the scheduler is not healthy.")
    pause: float = Field(2, description="Gap between the scheduler's own ticks that counts as a pause.")
    unknown_after: float = Field(30, description="A placement that its worker never lists is lost after this.")
    ended_after: float = Field(60, description="A placement that its worker lists as ended is lost after this.")
    stop_grace: float = Field(10, description="Time that a run has to end by itself when it is asked to.")
