"""Settings of one worker, read once from the environment (prefix `TRAINWRIGHT_WORKER_`). No I/O."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Patience, Seconds, Size

Index = Annotated[int, Field(ge=0, le=1023)]


class WorkerSettings(EnvironmentSettings):
    """What one worker offers, and where it keeps its files."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_WORKER_", frozen=True, extra="ignore")

    home: Path = Field(Path(".trainwright/workers/1"), description="The worker's own folder.")
    cpus: float | None = Field(
        None, gt=0, le=4096, description="CPU cores offered; all of this machine when left out."
    )
    memory: Size | None = Field(None, description="Bytes offered; all of this machine when left out.")
    gpus: list[Index] | None = Field(None, description="Indices of the GPUs offered; all when left out.")
    labels: dict[str, str] = Field({}, description="For people and placement.")
    address: str = Field(
        "", description="Name or address by which other workers reach it; its host's name if empty."
    )
    ports: str = Field(
        "29400-29499",
        pattern=r"^\d{1,5}-\d{1,5}$",
        description="First and last port on which runs on several workers may meet here, such as 29400-29499.",
    )
    port: int | None = Field(
        None, ge=0, le=65535, description="HTTP port for /metrics and /health/…; none when left out, or 0."
    )
    data_roots: list[Path] = Field([], description="Folders that absolute data paths must lie in; any if empty.")
    heartbeat_seconds: Seconds = Field(2.0, description="Between its signs of life.")
    stop_grace_seconds: Patience = Field(4.0, description="Time for runs to end when the worker is stopped.")
    orphan_seconds: Seconds = Field(30.0, description="How long runs wait for an agent to come back.")
    idle_after: Seconds | None = Field(
        None,
        description="Seconds that a run may do nothing with its GPUs (without any: with its CPU) before it is"
        " paused, where its document does not say; for ever if left out.",
    )
    keep_hours: float = Field(24.0, ge=0, le=87_600, description="How long files of ended attempts are kept.")

    @field_validator("ports")
    @classmethod
    def _is_a_range(cls, value: str) -> str:
        low, high = map(int, value.split("-"))
        if not 1 <= low <= high <= 65535:
            raise ValueError(f"{value!r} is no range of ports; write the first and the last, such as 29400-29499")
        return value

    @property
    def port_range(self) -> list[int]:
        """Return the first and the last port on which runs may meet."""
        return [int(port) for port in self.ports.split("-")]
