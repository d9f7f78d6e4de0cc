"""Settings of the gateway (prefix ``GATEWAY_``)."""

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.gateway.webhooks.guard import Network, networks
from trainwright.runtime.environment import EnvironmentSettings
from trainwright.runtime.kinds import Patience, Seconds, Size


class GatewaySettings(EnvironmentSettings):
    """Limits of what is let in, and how long others may take."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="ignore")

    body_limit: Size = Field(1024**2, description="Bytes of a request's body.")
    upload_limit: Size = Field(4 * 1024**3, description="The same for `/files`, which streams.")
    connect_seconds: Seconds = Field(2, description="Time for a service to take a connection.")
    answer_seconds: Seconds = Field(75, description="Time for it to say something; requests may wait 60 s.")
    ready_seconds: Seconds = Field(2, description="Time for it to say how it is.")
    streams: int = Field(1000, ge=0, le=1_000_000, description="Streams of `/events` at a time.")
    heartbeat_seconds: Seconds = Field(15, description="Silence after which such a stream says that it lives.")
    webhooks_allow: str = Field(
        "", description="Networks, with commas, that webhooks may go to though they are not public: `10.1.0.0/16`."
    )
    webhooks_timeout_seconds: Seconds = Field(10, description="Time for a receiver's whole answer.")
    webhooks_retry_seconds: Seconds = Field(1, description="First wait after a failed try; doubles up to 1 h.")
    webhooks_give_up_seconds: Patience = Field(86_400, description="Time until one event is given up.")
    webhooks_disable_seconds: Seconds = Field(
        3 * 86_400, description="Time without success after which a webhook is switched off."
    )

    @field_validator("webhooks_allow")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks(text)
        return text

    @property
    def webhook_networks(self) -> tuple[Network, ...]:
        """Return the networks of ``webhooks_allow``."""
        return networks(self.webhooks_allow)
