"""Dead letters: records that a consumer could not apply."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    Contract,
    Event,
    Guard,
    Once,
    Sha256,
    Timestamp,
)


class DeadLetter(Contract):
    """A record as it was read, and why it failed. Bytes are base64."""

    dead_id: str = Field(description="Identifies the letter: one for each consumer and record.")
    consumer: str = Field(description="The service that could not apply it.")
    topic: str = Field(description="Topic of the record.")
    partition: int = Field(description="Its partition.")
    offset: int = Field(description="Its offset.")
    time: Timestamp = Field(description="When it was put aside.")
    key_b64: str | None = Field(None, description="Base64 of the record's key.")
    headers: list[tuple[str, str]] = Field(default=[], description="Name and base64 value.")
    value_b64: str | None = Field(None, description="Base64 of the record's value.")
    value_sha256: Sha256 | None = Field(None, description="In place of a value that is too large to carry.")
    error: str = Field(description="Why it could not be applied.")
    tries: int = Field(description="How often it was tried.")
    replayed_at: Timestamp | None = Field(None, description="When it was applied after all.")


class DeadLettered(Event):
    """A consumer put a record aside and went on."""

    noun: ClassVar[str] = "dead"
    letter: DeadLetter

    @property
    def subject(self) -> str:
        return self.letter.consumer

    @property
    def guard(self) -> Guard:
        return Once(self.letter.dead_id)


class DeadLetterList(Contract):
    """`GET /dead`."""

    dead_letters: list[DeadLetter]
