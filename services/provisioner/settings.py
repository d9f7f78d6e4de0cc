"""Settings of the provisioner (prefix ``PROVISIONER_``), read once. No I/O."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.provisioner.domain import Kind, Policy, Size
from trainwright.contracts.resource import Bytes
from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Patience, Port, Seconds, Urls


class WorkerClass(BaseModel):
    """A class of machines, as an operator declares it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[a-z]([a-z0-9-]{0,20}[a-z0-9])?$", description="Machines are called by it: `gpu-1`."
    )
    cpu: float = Field(gt=0, le=4096, description="CPU cores that its worker offers.")
    memory: Bytes = Field(gt=0, description="Bytes, or text such as `16Gi`.")
    gpu: int = Field(0, ge=0, le=64, description="Whole GPUs.")
    gpu_memory: Bytes = Field(0, description="Of each GPU; 0 when it is not known.")
    min: int = Field(0, ge=0, le=1000, description="Machines that are always there.")
    max: int = Field(1, ge=0, le=1000, description="Machines that there are at most.")
    node_selector: dict[str, str] = Field({}, description="Labels of the nodes that its pods go to.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min of class {self.name!r} is {self.min}, more than its max of {self.max}")
        return self

    @property
    def kind(self) -> Kind:
        """Return it as the decision sees it."""
        return Kind(self.name, Size(self.gpu, self.cpu, self.memory, self.gpu_memory), self.min, self.max)


class ProvisionerSettings(EnvironmentSettings):
    """Where the platform is, which machines there may be, and how patient it is. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="PROVISIONER_", frozen=True, extra="ignore")

    machines: Literal["local", "kubernetes"] = Field(
        "local", description="`local`: processes of `trainwright up`; `kubernetes`: pods."
    )
    url: Urls = Field("http://127.0.0.1:8700", description="The platform's address.")
    api_key: SecretStr = Field(SecretStr(""), description="A key of it.")
    api_key_file: Path | None = Field(None, description="File with the key, instead.")
    classes: tuple[WorkerClass, ...] = Field((), description="JSON: the classes of machines.")
    max_machines: int = Field(64, ge=0, le=10_000, description="Machines of all classes together.")
    every: Seconds = Field(2, description="Between two looks.")
    cool_down: Patience = Field(300, description="Idleness after which a machine is given back; 60 under `up`.")
    start_within: Seconds = Field(300, description="Time for a machine to become a worker.")
    settle: Patience = Field(3, description="Waiting from which what is free is no help, or it would be used.")
    retry_first: Seconds = Field(10, description="Wait after a start that failed; doubles with each in a row.")
    retry_most: Seconds = Field(600, description="The longest such wait.")
    steady: Seconds = Field(60, description="Life of a worker after which failures before it are forgotten.")
    home: Path = Field(Path(".trainwright"), description="The platform's home (local).")
    host: str = Field("127.0.0.1", description="Where it listens.")
    port: Port | None = Field(None, description="HTTP port for /health/… and /state; none without it.")
    pod_template: Path | None = Field(None, description="YAML of the pods' template (kubernetes).")
    api_server: Urls = Field("https://kubernetes.default.svc", description="Address of Kubernetes.")
    account: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="Folder with `token`, `ca.crt` and `namespace`.",
    )
    owner: str | None = Field(None, description="Deployment that owns the pods: they go when it does.")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.classes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"classes have one name twice: {', '.join(twice)}; rename one of each")
        return self

    @property
    def policy(self) -> Policy:
        """Return how it decides."""
        return Policy(
            kinds=tuple(one.kind for one in self.classes),
            most=self.max_machines,
            cool_down=self.cool_down,
            start_within=self.start_within,
            settle=self.settle,
            retry_first=self.retry_first,
            retry_most=self.retry_most,
            steady=self.steady,
        )

    def key(self) -> str:
        """Return the API key.

        Raises:
            OSError: Its file cannot be read.
        """
        if self.api_key_file is not None:
            return self.api_key_file.read_text().strip()
        return self.api_key.get_secret_value()
