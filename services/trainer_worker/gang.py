"""What a member of a gang does that a run alone does not: find the others, and leave the last word to all.

Not here: what the ends of all members mean together (the scheduler knows them all).
"""

import re
import socket
from collections.abc import Mapping

from services.trainer_worker.domain import Attempt, Read, document
from services.trainer_worker.verdict import Verdict
from trainwright.contracts.attempt import AttemptEvent, Outcome
from trainwright.contracts.command import GIVEN_UP
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.gang import MemberEnded, MemberEnding

TOLD_EVERY = 30.0
"""Seconds after which a member that waits for the others says again that it is over: nobody may have heard."""

_PEER_LOST = re.compile(
    r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket.*(closed|time|fail)|0 bytes"
    r"|remote (process|rank)|peer|ncclRemoteError|ncclSystemError|communicator was aborted|watchdog|timed? ?out",
    re.IGNORECASE,
)
_OWN_PORT = re.compile(r"EADDRINUSE|address already in use|failed to listen", re.IGNORECASE)
_COLLECTIVE = re.compile(
    r"gloo|nccl|\bstore\b|TCPStore|torch/distributed|torch\.distributed|DistNetwork|DistStore"
)


def environment(attempt: Attempt) -> Mapping[str, str]:
    """Return what torchrun tells a process: who it is among how many, and where they meet."""
    if not attempt.members or attempt.rendezvous is None:
        return {}
    rank, size = str(attempt.rank), str(len(attempt.members))
    return {
        "MASTER_ADDR": attempt.rendezvous.host,
        "MASTER_PORT": str(attempt.rendezvous.port),
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": rank,
        "GROUP_WORLD_SIZE": size,
        "NODE_RANK": rank,
        "ROLE_RANK": rank,
        "ROLE_WORLD_SIZE": size,
        "TORCHELASTIC_RUN_ID": attempt.rendezvous.id,
    }


def port_is_taken(attempt: Attempt) -> Failure | None:
    """Return why the members cannot meet on rank 0's worker, seen from there."""
    if not attempt.members or attempt.rank or attempt.rendezvous is None:
        return None
    port = attempt.rendezvous.port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            message = f"port {port}, where the members of the run were to meet, cannot be used: {error.strerror}"
            hint = "Give this worker other ports: TRAINWRIGHT_WORKER_PORTS=29600-29699."
            return Failure(failure_class=FailureClass.ENVIRONMENT_ERROR, message=message, hint=hint)
    return None


def ending(attempt: Attempt, worker_id: str, incarnation: str) -> MemberEnding:
    """Return how this member ended, for those who put all ends together."""
    assert attempt.outcome is not None
    return MemberEnding(
        task_id=attempt.task_id,
        attempt=attempt.attempt,
        rank=attempt.rank,
        worker_id=worker_id,
        incarnation=incarnation,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        failure=attempt.failure,
        peer_lost=attempt.outcome is Outcome.FAILED and lost_its_peer(attempt.failure),
    )


def event_of(
    kind: type[AttemptEvent | MemberEnded], attempt: Attempt, worker_id: str, incarnation: str, read: Read
) -> AttemptEvent | MemberEnded:
    """Return an event about an attempt, or about this member's part of it."""
    if issubclass(kind, MemberEnded):
        return kind(member=ending(attempt, worker_id, incarnation))
    return kind(attempt=document(attempt, worker_id, incarnation, read))


def lost_its_peer(failure: Failure | None) -> bool:
    """Return whether a failure says no more than that another process of the collective was gone."""
    if failure is None or failure.exception is None or failure.failure_class is FailureClass.OUT_OF_MEMORY:
        return False
    said = f"{failure.exception}: {failure.message}"
    where = f"{said}\n{failure.traceback or ''}"
    return bool(_PEER_LOST.search(said) and _COLLECTIVE.search(where) and not _OWN_PORT.search(said))


def is_given_up(attempt: Attempt) -> bool:
    """Return whether nobody waits for this attempt any more."""
    stop = attempt.stop
    return stop is not None and (attempt.is_fenced or stop.revision >= GIVEN_UP)


def said_of_all(attempt: Attempt) -> Verdict | None:
    """Return how the whole attempt ended as far as rank 0 may say it; None while others are not over."""
    if attempt.concluded is not None:
        return Verdict(attempt.concluded.outcome, attempt.concluded.failure)
    if is_given_up(attempt) and attempt.outcome is not None:
        return Verdict(attempt.outcome, attempt.failure)
    return None
