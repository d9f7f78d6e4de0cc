"""`python -m services.trainer_worker`: one worker until it is told to leave; exit code 0 on an orderly end.

SIGTERM and SIGINT end its runs, which are run again. SIGHUP leaves them alone: start it again within 30 s.
"""

import asyncio
import signal
import sys

from services.trainer_worker.service import HomeInUse, Leave, Worker
from services.trainer_worker.settings import WorkerSettings
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime import own_logs
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.environment import Unfit
from trainwright.runtime.settings import RuntimeSettings


async def _main() -> None:
    leave = Leave()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.for_good)
    loop.add_signal_handler(signal.SIGHUP, leave.for_a_moment)
    await Worker(WorkerSettings(), RuntimeSettings(), SystemClock()).run(leave)


if __name__ == "__main__":
    own_logs.begin()
    try:
        asyncio.run(_main())
    except (HomeInUse, Unfit) as error:
        sys.exit(f"trainwright worker: {error}")
    except StoreUnavailable as error:
        sys.exit(f"trainwright worker: {error.detail}")
