"""Machines that are processes of this one: a list in the home, which the supervisor of `up` follows."""

from collections.abc import Sequence
from pathlib import Path

from services.provisioner.domain import Machine, MachineState
from services.provisioner.machines.port import MachineError
from services.provisioner.settings import ProvisionerSettings
from trainwright.embedded.errors import HomeError
from trainwright.embedded.home import Home
from trainwright.embedded.roster import Roster


class LocalMachines:
    """Agents of this machine. Their processes are the supervisor's: it starts again what dies."""

    def __init__(self, home: Path, kind: str, most: int) -> None:
        self._home = Home(home)
        self._roster = Roster(self._home)
        self._kind, self._most = kind, most

    @classmethod
    def of(cls, settings: ProvisionerSettings) -> "LocalMachines":
        """Return the machines that the settings describe.

        Raises:
            MachineError: They have not exactly one class: there is one machine to share.
        """
        if len(settings.classes) != 1:
            raise MachineError(f"local machines are of one class; PROVISIONER_CLASSES has {len(settings.classes)}")
        (only,) = settings.classes
        return cls(settings.home, only.name, only.max)

    async def find(self) -> Sequence[Machine]:
        wanted = self._read()
        running = {entry["name"]: entry for entry in self._home.state().get("processes") or []}
        found = [self._machine(name, running.get(name), wanted) for name in sorted(wanted | running.keys())]
        return [machine for machine in found if machine is not None]

    async def start(self, name: str, kind: str) -> None:
        if self._number(name) is None or kind != self._kind:
            raise MachineError(f"{name} of class {kind} is no worker of this machine, which has {self._most}")
        self._write(self._read() | {name})

    async def stop(self, name: str) -> None:
        self._write(self._read() - {name})

    async def close(self) -> None:
        pass

    def _number(self, name: str) -> int | None:
        number = name.removeprefix(f"{self._kind}-")
        return int(number) if number.isdigit() and 1 <= int(number) <= self._most else None

    def _machine(self, name: str, entry: dict[str, object] | None, wanted: set[str]) -> Machine | None:
        if self._number(name) is None:
            return None
        runs = entry is not None and entry.get("pid") is not None
        if name in wanted:
            state = MachineState.RUNNING if runs else MachineState.STARTING
        elif runs:
            state = MachineState.ENDING
        else:
            return None
        ended = entry.get("last_exit") if entry is not None and not runs else None
        return Machine(name, self._kind, state, "" if ended is None else f"its agent ended: {ended}")

    def _read(self) -> set[str]:
        try:
            return self._roster.read()
        except HomeError as error:
            raise MachineError(str(error)) from error

    def _write(self, names: set[str]) -> None:
        try:
            self._roster.write(names)
        except HomeError as error:
            raise MachineError(str(error)) from error
