"""Settings of the gateway (prefix ``GATEWAY_``)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class GatewaySettings(BaseSettings):
    """Limits of what is let in, and how long others may take."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    body_limit: int = Field(1024**2, ge=1, description="Bytes of a request's body.")
    upload_limit: int = Field(4 * 1024**3, ge=1, description="The same for `/files`, which streams.")
    connect_seconds: float = Field(2, gt=0, description="Time for a service to take a connection.")
    answer_seconds: float = Field(75, gt=0, description="Time for it to say something; requests may wait 60 s.")
    ready_seconds: float = Field(2, gt=0, description="Time for it to say how it is.")
