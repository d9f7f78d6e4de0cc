"""Settings that every process shares, read once from the environment (prefix ``TRAINWRIGHT_``)."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings, Unfit


class RuntimeSettings(EnvironmentSettings):
    """Addresses and profile of one process."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_", frozen=True, extra="ignore")

    kafka: str = Field("127.0.0.1:9092", description="Bootstrap servers, comma-separated.")
    store: str = Field(
        "sqlite:.trainwright/services",
        repr=False,
        description="`sqlite:<folder>`: a file per service; `mongodb://…`: a database per service.",
    )
    database: str = Field("trainwright", description="How the names of MongoDB databases begin.")
    blobs: str = Field("dir:.trainwright/blobs", description="`dir:<folder>`, or `s3:<bucket>`.")
    s3_url: str = Field("http://127.0.0.1:9000", description="Where MinIO or another S3 answers.")
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str | None = None
    topics: Literal["embedded", "production"] = Field(
        "embedded", description="`embedded`: one partition per topic; `production`: as in the topic table."
    )
    replication: int = Field(1, ge=1, description="Replication factor of topics that are created.")
    static_members: bool = Field(
        True,
        description="One stable process per service: it keeps its partitions over a restart, and leads at once."
        " `false` with replicas.",
    )
    lease_seconds: float = Field(
        8, ge=1, description="Silence of a service's leader after which another replica takes over."
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="Where spans are sent, OTLP over HTTP (`http://collector:4318`); nowhere without it.",
    )
    host: str = "127.0.0.1"
    port: int = Field(8700, ge=1, le=65535, description="HTTP port of this process.")
    internal_token: SecretStr = SecretStr("")
    secrets: Path | None = Field(
        None, description="Folder of files named like these variables, with their values."
    )
    admin_key_file: Path | None = Field(None, description="File with the first admin key (gateway).")
    task_url: str | None = None
    scheduler_url: str | None = None
    monitor_url: str | None = None
    result_url: str | None = None
    log_url: str | None = None

    def urls_of(self, service: str) -> list[str]:
        """Return where a service that is a process of its own listens, each of its replicas if they are named."""
        named = str(getattr(self, f"{service}_url", None) or "").split(",")
        return [url.strip().rstrip("/") for url in named if url.strip()]

    @property
    def is_mongodb(self) -> bool:
        return self.store.startswith(("mongodb://", "mongodb+srv://"))

    def folder(self, setting: str, scheme: str) -> Path:
        """Return the folder of a setting like ``sqlite:<folder>``.

        Raises:
            Unfit: The setting has another scheme.
        """
        found, _, path = setting.partition(":")
        if found != scheme or not path:
            raise Unfit(f"{setting!r} is not `{scheme}:<folder>`")
        return Path(path)
