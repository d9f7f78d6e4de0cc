"""What the provisioner shows at `/metrics`: its machines, how many it wants, what it was refused."""

from collections.abc import Sequence

from services.provisioner.domain import MachineState
from services.provisioner.provisioning import Provisioner
from trainwright.runtime.telemetry.names import MACHINES, MACHINES_WANTED
from trainwright.runtime.telemetry.scraping import Reading, Scrape


def show(scrape: Scrape, provisioner: Provisioner) -> None:
    """Have the process's figures show the machines that were seen at the last look."""

    async def machines() -> Sequence[Reading]:
        states = provisioner.states
        return [
            *(Reading(MACHINES, (state.value,), states[state]) for state in MachineState),
            Reading(MACHINES_WANTED, (), provisioner.wanted),
        ]

    scrape.add(machines)
