"""Things that go on side by side in one process until one of them ends."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context

from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.clock import Clock

logger = logging.getLogger(__name__)

CANCEL_AGAIN_AFTER = 7.0
"""Seconds after which a task that was cancelled is so again: longer than any of our clients takes to stop.

Python 3.11's ``asyncio.wait_for`` forgets that it was cancelled when what it waits for comes in the same moment;
seen after a SIGSTOP, when everything comes in the same moment.
"""

Job = Callable[[], Coroutine[None, None, None]]


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


async def together(jobs: Sequence[Job], *, context: Context | None = None, ending: Job | None = None) -> None:
    """Run jobs until the first one ends, then end the others; raise what a job raised.

    ``ending`` is done when the others have been told to end, before they are waited for.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(job(), context=context) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        done = [task for task in tasks if task.done()]
        _cancel(tasks)
        if ending is not None:
            await ending()
        while pending := [task for task in tasks if not task.done()]:
            _, late = await asyncio.wait(pending, timeout=CANCEL_AGAIN_AFTER)
            _cancel(late)
    for task in done:
        task.result()


def repeated(run: Job, *, every: float, name: str, clock: Clock) -> Job:
    """Return a job that does something again and again, whatever it raises."""

    async def repeat() -> None:
        while True:
            try:
                await run()
            except StoreUnavailable as error:
                logger.warning("%s waits: %s", name, error)
            except Exception:
                logger.exception("%s failed; it is tried again", name)
            await clock.sleep(every)

    return repeat


def after(event: asyncio.Event, run: Job) -> Job:
    """Return a job that begins when something has happened."""

    async def wait() -> None:
        await event.wait()
        await run()

    return wait
