"""What holds of every pass, whatever comes: over simulated time, with the real pass."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.domain.pool import Needs
from services.scheduler.domain.shares import Quota
from services.scheduler.domain.state import Policy
from tests.scheduling_kit import a_host
from tests.scheduling_simulation import Job, Simulation

GIB = 2**30
QUICK = Policy(protected=30, patience=5, grace=20, forbearance=40, overdue=500, turn=4)


@st.composite
def jobs(draw: st.DrawFn, *, limited: bool = False, alike: bool = False) -> list[Job]:
    """Draw jobs that fit on at least one worker of the cluster below."""
    found = []
    for number in range(draw(st.integers(1, 25))):
        work = float(draw(st.integers(1, 400)))
        limit = work * draw(st.sampled_from([1, 2, 5])) if limited or draw(st.booleans()) else None
        members = draw(st.sampled_from([1, 1, 1, 2]))
        gpu = draw(st.sampled_from([0, 1, 1, 2, 4]))
        found.append(
            Job(
                f"t{number:02}",
                Needs(gpu, float(draw(st.integers(0, 4))), draw(st.integers(0, 4)) * GIB, 0, members),
                work,
                arrives=float(draw(st.integers(0, 600))),
                priority=0 if alike else draw(st.sampled_from([0, 0, 0, 1, 5])),
                strategy="" if alike else draw(st.sampled_from(["", "a", "b"])),
                limit=limit,
                every=float(draw(st.sampled_from([20, 100, math.inf]))),
                saves_on_stop=draw(st.booleans()),
                preemptible=draw(st.booleans()) and not alike,
            )
        )
    return found


CLUSTER = [
    a_host("w1", cpus=8, memory=8 * GIB, gpus=4, each=8 * GIB),
    a_host("w2", cpus=8, memory=8 * GIB, gpus=4, each=8 * GIB),
    a_host("w3", cpus=4, memory=8 * GIB),
]
QUOTAS = {"a": Quota(cpu_percent=60, gpu_memory_mb=4 * 8192, max_workers=3, weight=2)}

many = settings(max_examples=30)


@many
@given(jobs())
def test_nothing_is_given_twice_nobody_who_fits_waits_and_all_come_to_their_end(found: list[Job]) -> None:
    """The simulation asserts after each pass: no overcommitment, quotas, no inversion, nobody who fits waits."""
    played = Simulation(CLUSTER, found, quotas=QUOTAS, policy=QUICK).run()
    left = [job for job in found if played.told[job.name].ended is None]
    for job in left:  # more than the quota can ever allow
        use = job.needs.members * job.needs.gpu * 8192, job.needs.members * job.needs.cpu
        assert job.strategy == "a"
        assert use[0] > 4 * 8192 or use[1] > 12


@many
@given(jobs(limited=True, alike=True))
def test_others_never_delay_the_start_that_was_promised_to_the_first(found: list[Job]) -> None:
    played = Simulation(CLUSTER, found, policy=Policy(overdue=math.inf)).run()
    for name, starts in played.promised.items():
        assert played.told[name].started[0] <= starts + 1e-6, name


@many
@given(jobs(), st.integers(1, 3))
def test_a_pass_leaves_its_state_as_it_is_and_says_the_same_again(found: list[Job], seed: int) -> None:
    played = Simulation(CLUSTER, found, quotas=QUOTAS, policy=QUICK).run(until=100.0 * seed)
    before = repr((played.state.queue, played.state.runs, played.state.pool.room, played.state.shares))
    first, again = played.planner(played.state, 100.0 * seed), played.planner(played.state, 100.0 * seed)
    assert repr(first) == repr(again)
    assert repr((played.state.queue, played.state.runs, played.state.pool.room, played.state.shares)) == before


def test_two_jobs_do_not_take_the_place_from_each_other_for_ever() -> None:
    """Other schedulers reclaim back and forth when the victim's rank rises while it waits."""
    low = Job("low", Needs(4), 500, priority=0, every=50)
    high = Job("high", Needs(4), 100, arrives=70, priority=5)
    looks = [Job(f"look-{n}", Needs(0, 0.1), 1, arrives=130 + n) for n in range(5)]
    played = Simulation([a_host(gpus=4)], [low, high, *looks], policy=QUICK)
    played.run(until=85)
    waiting = played.state.queue.waiting["low"]
    played.state.put(replace(waiting, priority=9), 85)  # somebody raises the victim meanwhile
    played.run()
    assert played.told["high"].gave_way_to == []
    assert played.told["low"].gave_way_to == ["high"]
    assert len(played.told["low"].started) == 2


def test_an_old_task_is_not_overtaken_for_ever_by_those_of_a_higher_priority() -> None:
    flood = [Job(f"h{n:04}", Needs(1), 100, arrives=n * 20.0, priority=9) for n in range(600)]
    old = Job("old", Needs(2), 50, arrives=500)
    played = Simulation([a_host(gpus=4, cpus=64)], [*flood, old], policy=Policy(overdue=1000))
    played.run()
    started = played.told["old"].started[0]
    assert 1500 < started < 2500, "it had its turn although the flood went on until 12,000"


def test_a_strategy_that_used_much_lets_the_other_go_first() -> None:
    mine = [Job(f"m{n:03}", Needs(1), 60, strategy="mine") for n in range(60)]
    yours = [Job(f"y{n:03}", Needs(1), 60, arrives=61, strategy="yours") for n in range(8)]
    played = Simulation([a_host(gpus=4, cpus=64)], [*mine, *yours]).run()
    last = max(played.told[job.name].started[0] for job in yours)
    assert last <= 300, "they take turns: it does not wait for 56 older ones"


@pytest.mark.parametrize("gang", [8, 5])
def test_a_ten_minute_job_does_not_wait_behind_one_that_never_fits(gang: int) -> None:
    giant = Job("giant", Needs(gang), 60)
    small = Job("small", Needs(1), 600, arrives=1)
    played = Simulation([a_host(gpus=4)], [giant, small]).run()
    assert played.told["small"].started == [1.0]
    assert played.told["giant"].started == []


def test_a_large_one_is_not_starved_by_small_ones_that_fit_beside() -> None:
    small = [Job(f"s{n:03}", Needs(1), 100, arrives=n * 25.0) for n in range(200)]
    large = Job("large", Needs(4), 60, arrives=50)
    played = Simulation([a_host(gpus=4, cpus=64)], [*small, large]).run()
    assert played.told["large"].started[0] <= 200


def test_of_those_who_could_give_way_the_one_with_the_least_to_lose_does() -> None:
    fresh = Job("fresh", Needs(2), 9000, every=10)
    stale = Job("stale", Needs(2), 9000, every=100_000, saves_on_stop=False)
    high = Job("high", Needs(2), 50, arrives=1000, priority=1)
    played = Simulation([a_host(gpus=4)], [fresh, stale, high]).run(until=2000)
    assert (played.told["fresh"].gave_way_to, played.told["stale"].gave_way_to) == (["high"], [])
    assert played.told["high"].started == [1010]


def test_a_task_that_will_have_its_place_soon_takes_nobody_s() -> None:
    ending = Job("ending", Needs(4), 100, limit=100)
    high = Job("high", Needs(4), 50, arrives=80, priority=1)
    played = Simulation([a_host(gpus=4)], [ending, high], policy=Policy(patience=5, forbearance=0)).run()
    assert played.told["ending"].gave_way_to == ["high"], "20 s are more than its patience"
    patient = Simulation([a_host(gpus=4)], [ending, high], policy=Policy(patience=30, forbearance=0)).run()
    assert patient.told["ending"].gave_way_to == []
    assert patient.told["high"].started == [100]


def test_what_may_not_be_preempted_stays_and_cleared_places_are_kept_for_whom_they_were_cleared() -> None:
    kept = Job("kept", Needs(2), 300, preemptible=False)
    low = Job("low", Needs(2), 300)
    high = Job("high", Needs(2), 50, arrives=100, priority=1)
    thief = Job("thief", Needs(2), 50, arrives=101, strategy="other")
    rival = Job("rival", Needs(2), 50, arrives=101, priority=1, strategy="other")
    played = Simulation([a_host(gpus=4)], [kept, low, high, thief, rival], policy=QUICK).run()
    assert played.told["kept"].gave_way_to == []
    assert played.told["high"].started == [110], "not the rival, whose strategy has used less"
    assert min(played.told["thief"].started) > 110


@pytest.mark.parametrize(
    ("saves", "limit", "starts"), [(True, None, 1010), (False, None, 1030), (True, 5000, 1010)]
)
def test_places_kept_for_a_start_that_is_far_or_not_known_are_lent_until_then(
    saves: bool, limit: float | None, starts: float
) -> None:
    """Else three of four GPUs stand empty for as long as a run likes to go on, or its limit allows."""
    endless = Job("endless", Needs(1), 1000, limit=limit)
    large = Job("large", Needs(4), 60, arrives=10)
    stays = Job("stays", Needs(2), 5000, arrives=15, preemptible=False)
    guest = Job("guest", Needs(2), 5000, arrives=20, saves_on_stop=saves)
    played = Simulation([a_host(gpus=4)], [endless, large, stays, guest]).run()
    told = played.told
    assert told["guest"].started[0] == 20
    assert told["large"].started == [starts], "after the grace of its guest, and no later"
    assert told["guest"].gave_way_to == ["large"]
    assert told["stays"].started[0] >= starts + 60, "one that may not be asked to leave is no guest"
    assert told["guest"].done == 5000


def test_places_kept_for_a_start_within_the_hour_are_not_lent() -> None:
    """A guest would have to leave soon."""
    brief, large = Job("brief", Needs(1), 1000, limit=3500), Job("large", Needs(4), 60, arrives=10)
    told = Simulation([a_host(gpus=4)], [brief, large, Job("guest", Needs(2), 5000, arrives=20)]).run().told
    assert (told["large"].started, told["guest"].started) == ([1000], [1060])


def test_a_gang_has_places_cleared_beside_those_that_are_free() -> None:
    low = Job("low", Needs(4), 900)
    high = Job("high", Needs(4, members=2), 50, arrives=100, priority=1)
    played = Simulation([a_host("w1", gpus=4), a_host("w2", gpus=4)], [low, high]).run()
    assert played.told["high"].started == [110], "w2 is free, w1 is cleared"
    assert played.told["low"].gave_way_to == ["high"]
