"""Machines that are processes of this one; the supervisor's part is played, its own tests run it."""

import shutil
from pathlib import Path

import pytest

from services.provisioner.machines import MachineError
from services.provisioner.machines.local import LocalMachines
from services.provisioner.settings import ProvisionerSettings
from tests.contract.machines_port import MachinesContract, states
from trainwright.embedded.home import Home
from trainwright.embedded.roster import Roster


class LocalPlace:
    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.home.create()
        self.machines = LocalMachines(folder, "worker", 4)
        self.running: set[str] = set()

    async def bring_up(self, name: str) -> None:
        assert name in Roster(self.home).read()
        self._write(self.running | {name})

    async def take_down(self, name: str) -> None:
        assert name not in Roster(self.home).read()
        self._write(self.running - {name})

    def _write(self, names: set[str]) -> None:
        self.running = names
        self.home.write_state({"processes": [{"name": name, "pid": 1} for name in names]})


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "home")


class TestLocalMachines(MachinesContract):
    async def test_it_outlives_who_started_it(self, place: LocalPlace) -> None:
        await place.machines.start("worker-2", "worker")
        place.machines = LocalMachines(place.home.path, "worker", 4)
        assert await states(place) == {"worker-2": "starting"}

    async def test_there_are_no_more_than_the_machine_is_shared_by(self, place: LocalPlace) -> None:
        with pytest.raises(MachineError, match="no worker of this machine, which has 4"):
            await place.machines.start("worker-5", "worker")

    async def test_a_damaged_list_is_said_and_not_taken_for_an_empty_one(self, place: LocalPlace) -> None:
        (place.home.path / "roster.json").write_text('["worker-1')
        with pytest.raises(MachineError, match="is damaged; remove this one file"):
            await place.machines.find()

    async def test_a_list_that_cannot_be_written_is_said(self, place: LocalPlace) -> None:
        shutil.rmtree(place.home.path)
        with pytest.raises(MachineError, match="cannot be used: no such file"):
            await place.machines.start("worker-1", "worker")

    def test_one_machine_is_of_one_class(self, tmp_path: Path) -> None:
        with pytest.raises(MachineError, match="of one class; PROVISIONER_CLASSES has 0"):
            LocalMachines.of(ProvisionerSettings(home=tmp_path))
