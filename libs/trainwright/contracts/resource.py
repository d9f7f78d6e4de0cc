"""Resources that a task asks for and that a worker has."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from trainwright.contracts.base import (
    LARGEST,
    Contract,
    Request,
)

MOST_WORKERS = 128
"""Workers that one task may have at a time: who they are travels in one record."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

AMOUNT = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?)?B?\s*"


def parse_bytes(value: Any) -> Any:
    """Return a memory amount in bytes from an integer or from text such as ``512Mi`` or ``16Gi``.

    Raises:
        ValueError: The text is not a number with one of the known units.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(AMOUNT, value)
    if match is None:
        raise ValueError(f"{value!r} is not a memory amount; write bytes or e.g. '512Mi', '16Gi'")
    return int(Decimal(match[1]) * _UNITS[match[2] or ""])


Bytes = Annotated[
    int,
    Field(ge=0, le=LARGEST, description="Bytes, or text such as '16Gi'."),
    BeforeValidator(parse_bytes),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{AMOUNT}$"}],
            "description": "Bytes, or text such as '16Gi'.",
        },
        mode="validation",
    ),
]


class ResourceRequirements(Request):
    """What one attempt of a task needs, on each of its workers."""

    gpu: int = Field(0, ge=0, le=1024, description="Whole GPUs.")
    cpu: float = Field(1, ge=0, le=4096, description="CPU cores.")
    memory: Bytes = 0
    gpu_memory: Bytes = 0
    workers: int = Field(
        1, ge=1, le=MOST_WORKERS, description="Workers that run it together, each with all of this; all or none."
    )


class Gpu(Contract):
    """One GPU of a worker."""

    index: int = Field(description="Number on its worker, from 0.")
    model: str = Field(description="What the driver calls it.")
    memory: int = Field(description="Bytes.")


class Slots(Contract):
    """What a placement takes from its worker."""

    gpus: list[int] = Field(default=[], description="Indices of the GPUs that the attempt may see.")
    cpu: float = Field(0, description="CPU cores.")
    memory: int = Field(0, description="Bytes.")


class ResourceUsage(Contract):
    """What is in use at a moment."""

    gpu: float | None = Field(None, description="Mean utilisation of the GPUs, 0 to 100.")
    gpu_memory: int | None = Field(None, description="Bytes.")
    cpu: float | None = Field(None, description="Percent of one core; 250 is two and a half cores.")
    memory: int | None = Field(None, description="Bytes, resident.")
