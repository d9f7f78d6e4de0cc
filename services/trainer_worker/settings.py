"""Settings of one worker, read once from the environment (prefix `TRAINWRIGHT_WORKER_`). No I/O."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """What one worker offers, and where it keeps its files."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_WORKER_", frozen=True, extra="ignore")

    home: Path = Field(Path(".trainwright/workers/1"), description="The worker's own folder.")
    cpus: float | None = Field(None, gt=0, description="CPU cores offered; all of this machine when left out.")
    memory: int | None = Field(None, gt=0, description="Bytes offered; all of this machine when left out.")
    gpus: list[int] | None = Field(None, description="Indices of the GPUs offered; all when left out.")
    labels: dict[str, str] = Field({}, description="For people and placement.")
    data_roots: list[Path] = Field([], description="Folders that absolute data paths must lie in; any if empty.")
    heartbeat_seconds: float = Field(2.0, gt=0)
    stop_grace_seconds: float = Field(4.0, ge=0, description="Time for runs to end when the worker is stopped.")
    orphan_seconds: float = Field(30.0, gt=0, description="How long runs wait for an agent to come back.")
    keep_hours: float = Field(24.0, ge=0, description="How long files of ended attempts are kept.")
