"""The loop: look, decide, do; again and again. Whatever fails is said, and tried again at the next look."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import orjson

from services.provisioner.deciding import decide
from services.provisioner.domain import Action, Decision, Drain, MachineState, Memory, Start, Stop, Undrain, World
from services.provisioner.looking import Platform, Unknown
from services.provisioner.machines import MachineError, Machines
from services.provisioner.settings import ProvisionerSettings
from trainwright.contracts.base import Timestamp
from trainwright.runtime.clock import Clock
from trainwright.runtime.telemetry.figures import count
from trainwright.runtime.telemetry.names import MACHINES_REFUSED

logger = logging.getLogger(__name__)

ACTIONS: Mapping[type[Action], str] = {Start: "start", Stop: "stop", Drain: "drain", Undrain: "undrain"}
"""What is done, as figures name it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What people see of the provisioner."""

    at: Timestamp
    ok: bool
    waiting: int = 0
    machines: dict[str, str] = field(default_factory=dict)
    """State by name; what is wrong with one follows its state."""
    notes: tuple[str, ...] = ()
    """Why nothing more is started, what failed."""


class Provisioner:
    """Turns what waits into machines."""

    def __init__(
        self, settings: ProvisionerSettings, platform: Platform, machines: Machines, clock: Clock
    ) -> None:
        self._settings, self._platform, self._machines, self._clock = settings, platform, machines, clock
        self._memory = Memory()
        self._logged: tuple[str, ...] = ()
        self.states: Counter[MachineState] = Counter()
        """Machines by state, at the last look."""
        self.wanted = 0
        """Machines that stay, and those that are started."""
        for action in ("look", *ACTIONS.values()):
            count(MACHINES_REFUSED, action, by=0)
        self.said = Said(clock.now(), False, notes=("it has not looked yet",))

    async def run(self) -> None:
        """Provision until cancelled."""
        while True:
            await self.step()
            await self._clock.sleep(self._settings.every)

    async def step(self) -> None:
        """Look once, and do what follows."""
        try:
            world = await self._look()
        except (Unknown, MachineError) as error:
            count(MACHINES_REFUSED, "look")
            self._say(Said(self._clock.now(), False, notes=(f"{error}; nothing is started or ended meanwhile",)))
            return
        decision = decide(world, self._memory, self._settings.policy, self._clock.monotonic())
        self._memory = decision.memory
        self._count(world, decision)
        failed = [said for action in decision.actions if (said := await self._do(action)) is not None]
        self._say(self._seen(world, decision, failed))

    async def _look(self) -> World:
        # Machines first: one that is gone by the time when its worker is looked for is seen at the next look.
        machines = await self._machines.find()
        wishes, workers = await self._platform.look()
        return World(wishes, workers, tuple(machines))

    async def _do(self, action: Action) -> str | None:
        """Do one thing; return what went wrong."""
        try:
            match action:
                case Start(name, kind):
                    logger.info("starting %s", name)
                    await self._machines.start(name, kind)
                case Stop(name, why):
                    logger.info("ending %s: %s", name, why)
                    await self._machines.stop(name)
                case Drain(worker_id):
                    logger.info("draining %s", worker_id)
                    await self._platform.drain(worker_id)
                case Undrain(worker_id):
                    logger.info("%s is needed again", worker_id)
                    await self._platform.undrain(worker_id)
        except (Unknown, MachineError) as error:
            count(MACHINES_REFUSED, ACTIONS[type(action)])
            return f"{action}: {error}"
        return None

    def _count(self, world: World, decision: Decision) -> None:
        stopped = {action.name for action in decision.actions if isinstance(action, Stop)}
        leaving = (MachineState.ENDING, MachineState.OVER, MachineState.LOST)
        stay = [one for one in world.machines if one.state not in leaving and one.name not in stopped]
        self.states = Counter(one.state for one in world.machines)
        self.wanted = len(stay) + sum(isinstance(action, Start) for action in decision.actions)

    def _seen(self, world: World, decision: Decision, failed: list[str]) -> Said:
        machines = {one.name: f"{one.state}: {one.reason}" if one.reason else one.state for one in world.machines}
        waiting = sum(wish.count for wish in world.wishes)
        return Said(self._clock.now(), not failed, waiting, machines, (*failed, *decision.notes))

    def _say(self, said: Said) -> None:
        for note in said.notes:
            if note not in self._logged:
                logger.warning("%s", note)
        self._logged = said.notes
        self.said = said


async def keep_file(
    provisioner: Provisioner, settings: ProvisionerSettings, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Keep what is said in a file of the home, for `trainwright status`, until cancelled."""
    path = settings.home / "provisioner.json"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    while True:
        try:
            await asyncio.to_thread(new.write_bytes, orjson.dumps(provisioner.said))
            await asyncio.to_thread(os.replace, new, path)
        except OSError as error:
            logger.warning("cannot write %s: %s", path, error)
        await sleep(settings.every)
