"""Settings that every process shares, read once from the environment (prefix ``TRAINWRIGHT_``)."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import LONGEST, Blobs, Port, Servers, Store, Urls


class RuntimeSettings(EnvironmentSettings):
    """Addresses and profile of one process."""

    model_config = SettingsConfigDict(env_prefix="TRAINWRIGHT_", frozen=True, extra="ignore")

    kafka: Servers = Field("127.0.0.1:9092", description="Bootstrap servers, comma-separated.")
    store: Store = Field(
        "sqlite:.trainwright/services",
        repr=False,
        description="`sqlite:<folder>`: a file per service; `mongodb://…`: a database per service.",
    )
    database: str = Field(
        "trainwright", pattern=r"^[A-Za-z0-9_-]{1,40}$", description="How the names of MongoDB databases begin."
    )
    blobs: Blobs = Field("dir:.trainwright/blobs", description="`dir:<folder>`, or `s3:<bucket>`.")
    s3_url: str = Field("http://127.0.0.1:9000", description="Where MinIO or another S3 answers.")
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    s3_region: str | None = Field(None, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)?$")
    topics: Literal["embedded", "production"] = Field(
        "embedded", description="`embedded`: one partition per topic; `production`: as in the topic table."
    )
    replication: int = Field(1, ge=1, le=32_767, description="Replication factor of topics that are created.")
    static_members: bool = Field(
        True,
        description="One stable process per service: it keeps its partitions over a restart, and leads at once."
        " `false` with replicas.",
    )
    lease_seconds: float = Field(
        8, ge=1, le=LONGEST, description="Silence of a service's leader after which another replica takes over."
    )
    otlp_endpoint: Urls | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
        description="Where spans are sent, OTLP over HTTP (`http://collector:4318`); nowhere without it.",
    )
    host: str = "127.0.0.1"
    port: Port = Field(8700, description="HTTP port of this process.")
    internal_token: SecretStr = SecretStr("")
    secrets: Path | None = Field(
        None, description="Folder of files named like these variables, with their values."
    )
    admin_key_file: Path | None = Field(None, description="File with the first admin key (gateway).")
    task_url: Urls | None = None
    scheduler_url: Urls | None = None
    monitor_url: Urls | None = None
    result_url: Urls | None = None
    log_url: Urls | None = None

    def urls_of(self, service: str) -> list[str]:
        """Return where a service that is a process of its own listens, each of its replicas if they are named."""
        named = str(getattr(self, f"{service}_url", None) or "").split(",")
        return [url.strip().rstrip("/") for url in named if url.strip()]

    @property
    def is_mongodb(self) -> bool:
        return self.store.startswith(("mongodb://", "mongodb+srv://"))
