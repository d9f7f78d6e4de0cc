"""Python client of the public API: `from trainwright.client import Client`.

Every method answers with a model of `trainwright.contracts` or raises a `TrainwrightError`. Not here: what the
command line adds (tables, progress bars), and anything that talks to Kafka.
"""

from trainwright.client.client import Client
from trainwright.client.connection import Connection, find_connection
from trainwright.client.errors import Refused, Unreachable
from trainwright.client.stream import StreamedEvent
from trainwright.contracts.errors import (
    Conflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    TooLarge,
    TrainwrightError,
    Unauthorised,
    Unavailable,
)

__all__ = [
    "Client",
    "Conflict",
    "Connection",
    "IllegalTransition",
    "InvalidInput",
    "NotFound",
    "Refused",
    "StreamedEvent",
    "TooLarge",
    "TrainwrightError",
    "Unauthorised",
    "Unavailable",
    "Unreachable",
    "find_connection",
]
