"""Leases: silence counts only while the scheduler itself could hear."""

from datetime import UTC, datetime

from services.scheduler.leases import Leases
from services.scheduler.settings import SchedulerSettings
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.runtime.clock import SystemClock


class Hands(SystemClock):
    """A clock whose monotonic time is set by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


def a_scheduler() -> tuple[Leases, Hands]:
    clock = Hands()
    return Leases(clock, SchedulerSettings()), clock


def beat(leases: Leases) -> None:
    leases.heard(WorkerHeartbeat(worker_id="w", incarnation="one", time=datetime.now(UTC)))


def live(leases: Leases, clock: Hands, seconds: float, *, probes: bool = True) -> None:
    """Let time pass as it does for a scheduler that is awake."""
    for _ in range(int(seconds * 2)):
        clock.at += 0.5
        leases.tick()
        if probes:
            leases.probe_seen(leases.next_probe())


def test_a_worker_is_lost_after_its_lease_and_not_before() -> None:
    leases, clock = a_scheduler()
    beat(leases)
    live(leases, clock, 8)
    assert not leases.is_expired("w")
    live(leases, clock, 0.5)
    assert leases.is_expired("w")
    beat(leases)
    assert not leases.is_expired("w")


def test_a_pause_of_the_scheduler_gives_the_full_lease_again() -> None:
    leases, clock = a_scheduler()
    beat(leases)
    clock.at += 90  # SIGSTOP, a laptop's lid
    leases.tick()
    leases.probe_seen(leases.next_probe())
    assert not leases.is_expired("w")
    live(leases, clock, 8.5)
    assert leases.is_expired("w")


def test_without_its_own_probe_the_scheduler_judges_nobody() -> None:
    leases, clock = a_scheduler()
    beat(leases)
    live(leases, clock, 600, probes=False)  # Kafka is away
    assert not leases.is_expired("w")
    live(leases, clock, 8)
    assert not leases.is_expired("w")
    live(leases, clock, 1)
    assert leases.is_expired("w")


def test_a_late_probe_means_that_heartbeats_are_late_too() -> None:
    leases, clock = a_scheduler()
    beat(leases)
    live(leases, clock, 7)
    late = leases.next_probe()
    for _ in range(3):
        clock.at += 1
        leases.tick()
    leases.probe_seen(late)
    assert not leases.is_expired("w")


def test_an_arrival_is_a_sign_of_life() -> None:
    leases, clock = a_scheduler()
    live(leases, clock, 20)
    leases.arrived("w")
    assert not leases.is_expired("w")
    live(leases, clock, 8.5)
    assert leases.is_expired("w")


def test_after_a_restart_everybody_has_just_spoken() -> None:
    leases, clock = a_scheduler()
    assert not leases.is_expired("a worker of before")
    live(leases, clock, 8.5)
    assert leases.is_expired("a worker of before")
