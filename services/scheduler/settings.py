"""Settings of the scheduler (prefix ``SCHEDULER_``)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Count, Patience, Seconds


class SchedulerSettings(EnvironmentSettings):
    """How patient the scheduler is. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="SCHEDULER_", frozen=True, extra="ignore")

    lease: Seconds = Field(8, description="Silence of a worker, while the scheduler is healthy, until it is lost.")
    returning: Patience = Field(30, description="The same for one that was not heard since the scheduler started.")
    probe_every: Seconds = Field(2, description="Between probes of the scheduler's own path through Kafka.")
    probe_late: Seconds = Field(2, description="Round trip of a probe from which the scheduler is not healthy.")
    pause: Seconds = Field(2, description="Gap between the scheduler's own ticks that counts as a pause.")
    watch_every: Seconds = Field(0.5, description="Between looks for workers whose lease is over.")
    unknown_after: Seconds = Field(30, description="A placement that its worker never lists is lost after this.")
    ended_after: Seconds = Field(60, description="A placement that its worker lists as ended is lost after this.")
    stop_grace: Patience = Field(10, description="Time that a run has to end by itself when it is asked to.")
    preempt_grace: Patience = Field(30, description="The same for one whose place is needed for another task.")
    forbearance: Patience = Field(
        600,
        description="Longest wait of a task with a priority above 0 for others to save, or to end, before they "
        "lose work for it; any other task waits up to 24 times as long.",
    )
    protected: Patience = Field(
        60, description="One that gave its place up keeps the next for so long; then 3, 7, 15 times it."
    )
    bad_runs: Count = Field(2, description="Runs that fail on a worker for its own fault until it is left out.")
    bad_within: Seconds = Field(3600, description="Time in which they count.")
    bad_for: Seconds = Field(600, description="Time that it is left out first; twice as long each time after.")
    overdue: Seconds = Field(3600, description="Time of waiting after which a task may get every eighth place.")
