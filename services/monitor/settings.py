"""Settings of the monitor service (prefix ``MONITOR_``)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Count, Seconds

DEFAULT_POINTS = 10_000
MOST_POINTS = 100_000


class MonitorSettings(EnvironmentSettings):
    """How streams treat their readers."""

    model_config = SettingsConfigDict(env_prefix="MONITOR_", frozen=True, extra="ignore")

    page: Count = Field(500, description="Records that are read and sent at a time.")
    heartbeat_seconds: Seconds = Field(15, description="Silence after which a stream says that it lives.")
    slow_seconds: Seconds = Field(5, description="Wait for a reader of a page from which it counts as slow.")
    slow_keeps: Count = Field(1000, description="Records that a slow reader still gets; the others are a gap.")
