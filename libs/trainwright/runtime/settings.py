"""Settings that every process shares, read once from the environment (prefix ``TRAINWRIGHT_``)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class RuntimeSettings(BaseSettings):
    """Addresses and profile of one process."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_", frozen=True, extra="ignore")

    kafka: str = Field("127.0.0.1:9092", description="Bootstrap servers, comma-separated.")
    store: str = Field("sqlite:.trainwright/services", description="`sqlite:<folder>`: one file per service.")
    blobs: str = Field("dir:.trainwright/blobs", description="`dir:<folder>`.")
    topics: Literal["embedded", "production"] = Field(
        "embedded", description="`embedded`: one partition per topic; `production`: as in the topic table."
    )
    replication: int = Field(1, ge=1, description="Replication factor of topics that are created.")
    static_members: bool = Field(
        True, description="One stable process per service: it keeps its partitions over a restart."
    )
    host: str = "127.0.0.1"
    port: int = Field(8700, ge=1, le=65535, description="HTTP port of this process.")
    internal_token: SecretStr = SecretStr("")
    admin_key_file: Path | None = Field(None, description="File with the first admin key (gateway).")
    task_url: str | None = None
    scheduler_url: str | None = None
    monitor_url: str | None = None
    result_url: str | None = None
    log_url: str | None = None

    def url_of(self, service: str) -> str | None:
        """Return where a service that is a process of its own listens."""
        url = getattr(self, f"{service}_url", None)
        return None if url is None else str(url).rstrip("/")

    def folder(self, setting: str, scheme: str) -> Path:
        """Return the folder of a setting like ``sqlite:<folder>``.

        Raises:
            ValueError: The setting has another scheme.
        """
        found, _, path = setting.partition(":")
        if found != scheme or not path:
            raise ValueError(f"{setting!r} is not `{scheme}:<folder>`")
        return Path(path)
