"""What every source of machines must do, said once: the local one and Kubernetes both pass it."""

from typing import Protocol

import pytest

from services.provisioner.domain import MachineState
from services.provisioner.machines import MachineError, Machines


class Place(Protocol):
    """Machines, and the hands of whoever really runs them: the supervisor, or a kubelet."""

    @property
    def machines(self) -> Machines:
        """Return what is tested."""

    async def bring_up(self, name: str) -> None:
        """Let a machine that was started run."""

    async def take_down(self, name: str) -> None:
        """Let a machine that was stopped be gone."""


async def states(place: Place) -> dict[str, str]:
    """Return the state of each machine."""
    return {machine.name: machine.state.value for machine in await place.machines.find()}


class MachinesContract:
    """Tests that a source of machines inherits; it gives the fixture ``place``."""

    async def test_a_machine_is_seen_from_its_start_to_its_end(self, place: Place) -> None:
        assert await states(place) == {}
        await place.machines.start("worker-1", "worker")
        (found,) = await place.machines.find()
        assert (found.name, found.kind, found.state) == ("worker-1", "worker", MachineState.STARTING)
        await place.bring_up("worker-1")
        assert await states(place) == {"worker-1": "running"}
        await place.machines.stop("worker-1")
        assert await states(place) == {"worker-1": "ending"}, "it counts until it is gone"
        await place.take_down("worker-1")
        assert await states(place) == {}

    async def test_what_is_repeated_does_nothing(self, place: Place) -> None:
        for _ in range(2):
            await place.machines.start("worker-1", "worker")
            await place.machines.start("worker-2", "worker")
        assert await states(place) == {"worker-1": "starting", "worker-2": "starting"}
        for _ in range(2):
            await place.machines.stop("worker-1")
            await place.machines.stop("worker-2")
        await place.machines.stop("worker-2")
        for name in ("worker-1", "worker-2"):
            await place.take_down(name)
        await place.machines.stop("worker-1")
        assert await states(place) == {}

    async def test_a_class_that_nobody_declared_is_refused(self, place: Place) -> None:
        with pytest.raises(MachineError, match="class"):
            await place.machines.start("other-1", "other")
        assert await states(place) == {}
