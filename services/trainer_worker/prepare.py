"""Get an attempt ready to start: the task's files, the checkpoint to go on from, the specification."""

from pathlib import Path

from services.trainer_worker import checkpoints, gang, spawn
from services.trainer_worker.domain import Attempt
from services.trainer_worker.place import Workplace
from trainwright.contracts.errors import Damaged, NotFound
from trainwright.contracts.failure import Failure, FailureClass


async def prepare(attempt: Attempt, directory: Path, place: Workplace) -> Failure | None:
    """Fill the attempt's folder; return why that is impossible, if it is.

    Raises:
        StoreUnavailable: The blob store does not answer; what is there is used when it is tried again.
    """
    name = ""
    if (taken := gang.port_is_taken(attempt)) is not None:
        return taken
    try:
        work = spawn.prepare_folder(directory)
        for file in attempt.config.files:
            name = file.path
            await place.blobs.read_file(file.sha256, work / name)
        settings = place.settings
        spawn.check_data_root(attempt.config.data, work, settings.data_roots)
        step = await _fetch(attempt, directory, place)
        spawn.write_spec(directory, attempt, place.agent_lock, settings.orphan_seconds, step)
    except (NotFound, Damaged) as error:
        return Failure(failure_class=FailureClass.DATA_ERROR, message=f"file {name}: {error.detail}", file=name)
    except FileNotFoundError as error:
        return Failure(failure_class=FailureClass.DATA_ERROR, message=str(error))
    except ValueError as error:
        return Failure(failure_class=FailureClass.USER_ERROR, message=str(error))
    except _CannotFetch as error:
        return Failure(failure_class=FailureClass.ENVIRONMENT_ERROR, message=str(error))
    except OSError as error:
        return Failure(failure_class=FailureClass.ENVIRONMENT_ERROR, message=f"the run's folder: {error}")
    return None


class _CannotFetch(Exception):
    """This machine cannot take a checkpoint; another one may."""


async def _fetch(attempt: Attempt, directory: Path, place: Workplace) -> int | None:
    try:
        return await checkpoints.fetch(attempt, directory, place.blobs, place.clock)
    except OSError as error:
        message = f"the checkpoint to go on from cannot be written to {directory}: {error.strerror or error}"
        raise _CannotFetch(message) from error
