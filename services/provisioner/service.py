"""Put the provisioner together: the platform, the machines, the loop between them."""

from collections.abc import Callable, Coroutine, Mapping, Sequence

from services.provisioner import figures
from services.provisioner.looking import Platform
from services.provisioner.machines import Machines
from services.provisioner.machines.kubernetes import KubernetesMachines
from services.provisioner.machines.local import LocalMachines
from services.provisioner.provisioning import Provisioner, keep_file
from services.provisioner.routes import build_app
from services.provisioner.settings import ProvisionerSettings
from trainwright.runtime.clock import Clock
from trainwright.runtime.jobs import together
from trainwright.runtime.server import Server
from trainwright.runtime.telemetry.edge import Observed
from trainwright.runtime.telemetry.scraping import Scrape

Job = Callable[[], Coroutine[None, None, None]]

MACHINES: Mapping[str, Callable[[ProvisionerSettings], Machines]] = {
    "local": LocalMachines.of,
    "kubernetes": KubernetesMachines.of,
}


async def run(settings: ProvisionerSettings, clock: Clock) -> None:
    """Provision until cancelled.

    Raises:
        MachineError: What it was told of machines cannot be used.
    """
    machines = machines_of(settings)
    platform = Platform(settings)
    provisioner = Provisioner(settings, platform, machines, clock)
    try:
        await together([provisioner.run, *_shown(provisioner, settings, clock)])
    finally:
        await platform.close()
        await machines.close()


def machines_of(settings: ProvisionerSettings) -> Machines:
    """Return where machines come from.

    Raises:
        MachineError: The settings do not fit it.
    """
    return MACHINES[settings.machines](settings)


def _shown(provisioner: Provisioner, settings: ProvisionerSettings, clock: Clock) -> Sequence[Job]:
    jobs: list[Job] = []
    if settings.machines == "local":
        jobs.append(lambda: keep_file(provisioner, settings, clock.sleep))
    if (port := settings.port) is not None:
        scrape = Scrape()
        figures.show(scrape, provisioner)
        app = Observed(build_app(provisioner), "provisioner", scrape, continues=False)
        jobs.append(Server(app, settings.host, port, "PROVISIONER").serve)
    return jobs
