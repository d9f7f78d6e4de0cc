"""The port: what the provisioner asks of whatever runs its machines. One contract suite holds them all to it."""

from collections.abc import Sequence
from typing import Protocol

from services.provisioner.domain import Machine

MACHINE_LABEL = "machine"
"""Label of a worker that names its machine."""


class MachineError(Exception):
    """It cannot be asked, or refuses; the message is one sentence. The next look tries again."""


class Machines(Protocol):
    """Where machines come from. All of it may be repeated without harm."""

    async def find(self) -> Sequence[Machine]:
        """Return all machines that were started here and are not gone, those just started too.

        Raises:
            MachineError: It is not known; nothing is decided then.
        """

    async def start(self, name: str, kind: str) -> None:
        """Start a machine whose worker has the label `machine` with this name; nothing happens if it is there.

        Raises:
            MachineError: It cannot.
        """

    async def stop(self, name: str) -> None:
        """End a machine in order; nothing happens if it is gone.

        Raises:
            MachineError: It cannot.
        """

    async def close(self) -> None:
        """Let connections go."""
