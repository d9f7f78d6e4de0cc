"""`python -m services.provisioner`: provision until SIGTERM or SIGINT; machines stay, the next one finds them."""

import asyncio
import contextlib
import logging
import signal
import sys

from services.provisioner.machines import MachineError
from services.provisioner.service import run
from services.provisioner.settings import ProvisionerSettings
from trainwright.runtime import own_logs
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.environment import Unfit


async def _main() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(run(ProvisionerSettings(), SystemClock()))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    own_logs.begin()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    try:
        asyncio.run(_main())
    except (MachineError, Unfit) as error:
        sys.exit(f"trainwright provisioner: {error}")
