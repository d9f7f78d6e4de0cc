"""Leases: silence counts only while the scheduler itself could hear."""

from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.partitioner import DefaultPartitioner

from services.scheduler.leases import Leases, voices
from services.scheduler.settings import SchedulerSettings
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.worker import WorkerDocument
from trainwright.runtime.clock import SystemClock

VOICES = ("one", "two")


class Hands(SystemClock):
    """A clock whose monotonic time is set by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


class Scheduler:
    """A scheduler's leases, and what happens around it."""

    def __init__(self) -> None:
        self.clock = Hands()
        self.leases = Leases(self.clock, SchedulerSettings(), VOICES)

    def beat(self, incarnation: str = "one", *, stranger: bool = False) -> None:
        heartbeat = WorkerHeartbeat(worker_id="w", incarnation=incarnation, time=datetime.now(UTC))
        (self.leases.heard_stranger if stranger else self.leases.heard)(heartbeat)

    def live(self, seconds: float, *, heard: tuple[str, ...] = VOICES) -> None:
        """Let time pass as it does for one that is awake; probes of the voices named come back at once."""
        for _ in range(int(seconds * 2)):
            self.clock.at += 0.5
            self.leases.tick()
            seq = self.leases.next_probe()
            for voice in heard:
                self.leases.probe_seen(voice, seq)

    def has_lost(self, **fields: Any) -> bool:
        worker = WorkerDocument(
            worker_id="w",
            incarnation="one",
            version=1,
            hostname="test",
            cpus=1,
            memory=1,
            registered_at=datetime.now(UTC),
            **fields,
        )
        return self.leases.is_expired(worker)


@pytest.fixture
def scheduler() -> Scheduler:
    """Return one that is healthy and has heard its worker."""
    found = Scheduler()
    found.live(1)
    found.beat()
    return found


def test_a_worker_is_lost_after_its_lease_and_not_before(scheduler: Scheduler) -> None:
    scheduler.live(8)
    assert not scheduler.has_lost()
    scheduler.live(0.5)
    assert scheduler.has_lost()
    scheduler.beat()
    assert not scheduler.has_lost()


def test_a_pause_of_the_scheduler_gives_the_full_lease_again(scheduler: Scheduler) -> None:
    scheduler.clock.at += 90  # SIGSTOP, a laptop's lid
    scheduler.live(8.5)
    assert not scheduler.has_lost()
    scheduler.live(0.5)
    assert scheduler.has_lost()


def test_a_pause_between_two_looks_of_one_sweep_is_noticed(scheduler: Scheduler) -> None:
    scheduler.live(7)
    scheduler.leases.tick()
    scheduler.clock.at += 90
    assert not scheduler.has_lost()


def test_a_probe_that_was_sent_before_a_pause_proves_nothing_after_it(scheduler: Scheduler) -> None:
    seq = scheduler.leases.next_probe()
    scheduler.clock.at += 90
    for voice in VOICES:
        scheduler.leases.probe_seen(voice, seq)
    assert scheduler.leases.healthy_since is None


@pytest.mark.parametrize("heard", [(), VOICES[:1]])
def test_without_its_own_probe_on_every_partition_the_scheduler_judges_nobody(
    scheduler: Scheduler, heard: tuple[str, ...]
) -> None:
    scheduler.live(600, heard=heard)  # Kafka is away, or the reader of one partition is behind
    assert not scheduler.has_lost()
    scheduler.live(8.5)
    assert not scheduler.has_lost()
    scheduler.live(0.5)
    assert scheduler.has_lost()


def test_a_late_probe_means_that_heartbeats_are_late_too(scheduler: Scheduler) -> None:
    scheduler.live(7)
    late = scheduler.leases.next_probe()
    for _ in range(5):
        scheduler.clock.at += 0.5
        scheduler.leases.tick()
    for voice in VOICES:
        scheduler.leases.probe_seen(voice, late)
    assert not scheduler.has_lost()


def test_a_scheduler_that_sends_no_probes_is_not_healthy(scheduler: Scheduler) -> None:
    for _ in range(200):
        scheduler.clock.at += 0.5
        scheduler.leases.tick()
    assert not scheduler.has_lost()


def test_an_arrival_is_a_sign_of_life(scheduler: Scheduler) -> None:
    scheduler.live(20)
    scheduler.leases.arrived("w")
    assert not scheduler.has_lost()
    scheduler.live(8.5)
    assert scheduler.has_lost()


def test_one_that_said_it_returns_is_left_alone_as_long_as_it_said(scheduler: Scheduler) -> None:
    scheduler.live(5)
    scheduler.leases.arrived("w")
    scheduler.live(30)
    assert not scheduler.has_lost(draining=True, returns_within=30)
    scheduler.live(0.5)
    assert scheduler.has_lost(draining=True, returns_within=30)


def test_after_a_start_workers_have_the_time_that_all_of_the_platform_may_take() -> None:
    scheduler = Scheduler()
    scheduler.beat()  # it waited on the log: no sign of life
    scheduler.live(30)
    assert not scheduler.has_lost()
    scheduler.live(1)
    assert scheduler.has_lost()


def test_a_heartbeat_from_the_log_renews_nothing_while_we_are_behind(scheduler: Scheduler) -> None:
    scheduler.live(60, heard=())
    scheduler.beat()
    scheduler.live(9)
    assert scheduler.has_lost()


def test_a_restarted_agent_lives_although_its_registration_is_late_but_not_for_ever(scheduler: Scheduler) -> None:
    for _ in range(15):
        scheduler.live(2)
        scheduler.beat("two", stranger=True)
        assert not scheduler.has_lost()
    for _ in range(6):
        scheduler.live(2)
        scheduler.beat("two", stranger=True)
    assert scheduler.has_lost()


@pytest.mark.parametrize("partitions", [1, 3, 7])
def test_a_scheduler_has_a_voice_on_every_partition(partitions: int) -> None:
    numbers = list(range(partitions))
    found = {DefaultPartitioner()(name.encode(), numbers, numbers) for name in voices(partitions, SystemClock())}
    assert found == set(numbers)
