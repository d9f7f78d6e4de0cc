"""`python -m services.provisioner`: provision until SIGTERM or SIGINT; machines stay, the next one finds them."""

import asyncio
import contextlib
import logging
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from services.provisioner.machines import MachineError
from services.provisioner.service import run
from services.provisioner.settings import ProvisionerSettings
from trainwright.runtime import own_logs
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.environment import unfit


async def _main() -> None:
    loop = asyncio.get_running_loop()
    try:
        settings = ProvisionerSettings()
    except (ValidationError, SettingsError) as error:
        raise MachineError(unfit(error, "PROVISIONER_")) from error
    task = asyncio.create_task(run(settings, SystemClock()))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


if __name__ == "__main__":
    own_logs.begin()
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    try:
        asyncio.run(_main())
    except MachineError as error:
        sys.exit(f"trainwright provisioner: {error}")
