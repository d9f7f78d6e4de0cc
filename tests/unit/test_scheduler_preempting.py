"""Giving way: who is asked, what is lost by it, and that those who leave do not leave in vain."""

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan
from services.scheduler.domain.pool import Needs, Room
from services.scheduler.domain.preempting import may_take, protected_until
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import RESTART, Clearing, Policy, Run
from tests.scheduling_kit import NOW, a_host, a_run, a_state, places
from tests.scheduling_simulation import Job, Simulation


def plan_for(needs: Needs, runs: list[Run], workers: dict[str, int]) -> Plan:
    """Return what a pass does for a task of a higher priority."""
    hosts = [a_host(name, cpus=64, gpus=gpus) for name, gpus in workers.items()]
    return plan(a_state(hosts, [Waiting("high", needs, 5)], runs), NOW)


def running(name: str, gpus: dict[str, tuple[int, ...]], unsaved: float) -> Run:
    """Return a run that has not saved for so long."""
    return a_run(name, [(worker, Room(some, 0.0)) for worker, some in gpus.items()], since=NOW - unsaved)


@pytest.mark.parametrize(
    ("ran", "saved", "heeds", "lost"),
    [
        pytest.param(1000, None, False, 1000, id="never-saved"),
        pytest.param(1000, 100, False, 100 + RESTART, id="saved-and-has-to-start-again"),
        pytest.param(1000, None, True, RESTART, id="saves-when-asked"),
        pytest.param(5, None, True, 5, id="has-just-started"),
        pytest.param(20, 15, False, 20, id="no-more-than-it-had"),
    ],
)
def test_what_a_run_loses(ran: float, saved: float | None, heeds: bool, lost: float) -> None:
    saved_at = 0.0 if saved is None else NOW - saved
    run = a_run("r", [("w1", Room((0, 1), 0.0))], since=NOW - ran, saved_at=saved_at, heeds_stop=heeds)
    assert run.lost_work(NOW) == pytest.approx(2 * lost)


def test_one_that_has_shown_that_it_saves_goes_rather_than_one_that_has_done_less() -> None:
    heeds = a_run("heeds", [("w1", Room((0,), 0.0))], since=NOW - 9000, heeds_stop=True)
    found = plan_for(Needs(1, 0), [heeds, running("deaf", {"w1": (1,)}, 100)], {"w1": 2})
    assert [clearing.victims for clearing in found.clearings] == [("heeds",)]


def test_who_has_just_started_may_be_asked_who_gave_way_before_has_its_place_ever_longer() -> None:
    state = a_state([a_host(gpus=1)], policy=Policy(protected=60))
    runs = [a_run("r", [("worker-1", Room((0,), 1))], since=NOW, gave_way=times) for times in range(4)]
    assert [protected_until(run, state) - NOW for run in runs] == [0, 60, 180, 420]
    high = Waiting("high", Needs(1), 5)
    assert [may_take(high, run, state, NOW + 60) for run in runs] == [True, True, False, False]
    heed = [replace(run, heeds_stop=True) for run in runs]
    assert [may_take(high, run, state, NOW + 60) for run in heed] == [True, True, True, True]
    assert [may_take(high, run, state, NOW + 59) for run in heed] == [True, False, False, False]


@pytest.mark.parametrize(("unsaved", "goes"), [(2000, "deaf"), (3000, "again")])
def test_one_that_saves_when_asked_keeps_the_next_place_unless_others_would_lose_more(
    unsaved: float, goes: str
) -> None:
    again = a_run("again", [("w1", Room((0,), 0.0))], since=NOW - 1000, gave_way=6, heeds_stop=True)
    deaf = running("deaf", {"w1": (1,)}, unsaved)
    policy = Policy(forbearance=0)
    state = a_state(
        [a_host("w1", cpus=64, gpus=2)], [Waiting("high", Needs(1, 0), 5)], [again, deaf], policy=policy
    )
    assert [clearing.victims for clearing in plan(state, NOW).clearings] == [(goes,)], "2780 s of its 63 minutes"


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 50)), min_size=1, max_size=9),
)
def test_nobody_could_be_asked_for_a_place_by_whom_less_is_lost(
    needed: int, drawn: list[tuple[int, int, int]]
) -> None:
    """On workers with eight GPUs each: compared with every set of runs."""
    taken, runs = {1: 0, 2: 0}, list[Run]()
    for number, (worker, gpus, unsaved) in enumerate(drawn):
        if taken[worker] + gpus <= 8:
            part = {f"w{worker}": tuple(range(taken[worker], taken[worker] + gpus))}
            runs.append(running(f"r{number}", part, float(unsaved)))
            taken[worker] += gpus
    found = plan_for(Needs(needed, 0), runs, {"w1": 8, "w2": 8})
    costs = [0.0] if any(8 - used >= needed for used in taken.values()) else []
    for worker, used in taken.items():
        here = [run for run in runs if run.parts[0][0] == f"w{worker}"]
        for some in (some for size in range(1, len(here) + 1) for some in combinations(here, size)):
            if 8 - used + sum(run.needs.gpu for run in some) >= needed:
                costs.append(sum(run.lost_work(NOW) for run in some))
    lost = sum(clearing.lost for clearing in found.clearings)
    assert lost == pytest.approx(min(costs))
    assert bool(found.clearings) != any(seat.task_id == "high" for seat in found.seats)


def test_one_run_on_two_workers_leaves_rather_than_two_that_lose_more_together() -> None:
    gang = running("gang", {"w1": (0, 1), "w2": (0, 1)}, 30)
    alone = [running(name, {name: (0, 1)}, 40) for name in ("w3", "w4")]
    found = plan_for(Needs(2, 0, members=2), [gang, *alone], {"w1": 2, "w2": 2, "w3": 2, "w4": 2})
    assert [clearing.victims for clearing in found.clearings] == [("gang",)], "120 and not 160 GPU-seconds"


@pytest.mark.parametrize(("priority", "worker"), [(-5, "w1"), (5, "w2")])
def test_of_equally_full_workers_one_takes_that_where_runs_are_of_its_rank(priority: int, worker: str) -> None:
    """So that a large task finds whole workers whose runs may all be asked to go."""
    low = a_run("low", [("w1", Room((0,), 0.0))], priority=-5)
    urgent = a_run("urgent", [("w2", Room((0,), 0.0))], priority=5)
    hosts = [a_host(name, gpus=4) for name in ("w1", "w2")]
    assert places(plan(a_state(hosts, [Waiting("new", Needs(1, 0), priority)], [low, urgent]), NOW)) == {
        "new": [worker]
    }


@pytest.mark.parametrize("turn", [8, 4])
def test_what_the_first_to_leave_left_is_there_when_the_last_has_gone(turn: int) -> None:
    """Else a small one has it, or the worker that was free, be it by its turn: and all have left in vain."""
    saves, deaf = Job("saves", Needs(4), 5000), Job("deaf", Needs(4), 5000, saves_on_stop=False)
    brief = Job("brief", Needs(4), 101)
    high = Job("high", Needs(4, members=3), 50, arrives=101, priority=1)
    small = [Job(f"small-{n}", Needs(2), 3000, arrives=at) for n, at in enumerate((50, 102))]
    fourth = Job("fourth", Needs(0), 1, arrives=105)  # after it comes the turn of who has waited longest
    hosts = [a_host(name, cpus=64, gpus=4) for name in ("w1", "w2", "w3")]
    policy = Policy(turn=turn, overdue=5, grace=30, patience=0, forbearance=0)
    told = Simulation(hosts, [saves, deaf, brief, high, fourth, *small], policy=policy).run().told
    assert told["fourth"].started == [105]
    assert told["high"].started == [131], "the grace of the last"
    assert told["saves"].gave_way_to == told["deaf"].gave_way_to == ["high"]
    assert min(told[job.name].started[0] for job in small) == 181


@pytest.mark.parametrize(
    ("low", "arrives", "starts"),
    [
        pytest.param(Job("low", Needs(4), 9000), 5000, 5010, id="saves-when-asked"),
        pytest.param(
            Job("low", Needs(4), 9000, every=100, saves_on_stop=False), 180, 230, id="its-next-checkpoint"
        ),
        pytest.param(Job("low", Needs(4), 9000, every=400, saves_on_stop=False), 780, 830, id="it-is-due-at-800"),
        pytest.param(
            Job("low", Needs(4), 9000, every=2000, saves_on_stop=False), 2010, 2050, id="as-long-as-since-it-saved"
        ),
        pytest.param(Job("low", Needs(4), 9000, saves_on_stop=False), 140, 270, id="as-long-as-it-had-worked"),
        pytest.param(Job("low", Needs(4), 9000, saves_on_stop=False), 5000, 5330, id="no-longer-than-the-bound"),
        pytest.param(
            Job("low", Needs(4), 30_000, priority=-1, saves_on_stop=False),
            5000,
            5000 + 24 * 300 + 30,
            id="24-times-the-bound-if-it-is-not-urgent",
        ),
        pytest.param(
            Job("low", Needs(4), 9000, priority=-1, saves_on_stop=False),
            140,
            140 + 6 * 140 + 30,
            id="six-times-as-long-as-it-had-worked-if-it-is-not-urgent",
        ),
        pytest.param(
            Job("low", Needs(4), 9000, priority=-1),
            5000,
            5000 + 6 * 40 + 10,
            id="for-its-next-start-too-if-it-is-not-urgent",
        ),
        pytest.param(Job("low", Needs(4), 9000, limit=5040, saves_on_stop=False), 5000, 5040, id="its-end"),
    ],
)
def test_one_that_needs_a_place_lets_another_save_first_within_a_bound(
    low: Job, arrives: float, starts: float
) -> None:
    """All of one worker; who does not save when asked is killed after a grace of 30 s."""
    high = Job("high", Needs(4), 50, arrives=arrives, priority=low.priority + 1)
    if low.limit is not None:
        low = replace(low, work=low.limit)
    policy = Policy(forbearance=300, patience=0)
    told = Simulation([a_host(gpus=4)], [low, high], policy=policy).run(until=13_000).told
    assert told["high"].started == [starts]
    if low.every < 9000:
        assert told["low"].lost <= 4 * (30 + 2 * 10), "its grace, and twice what was not saved, if it was little"


def test_whose_turn_it_is_may_have_others_give_their_places_up_as_before() -> None:
    """The places that its turn keeps for it are no reason to leave those there who run."""
    low = [Job(f"low-{n}", Needs(4), 5000, saves_on_stop=False) for n in range(2)]
    high = Job("high", Needs(4, members=2), 50, arrives=101, priority=1)
    looks = [Job(f"look-{n}", Needs(0), 1, arrives=102 + n) for n in range(6)]
    policy = Policy(turn=4, overdue=5, grace=30, patience=0, forbearance=60)
    hosts = [a_host(name, cpus=64, gpus=4) for name in ("w1", "w2")]
    told = Simulation(hosts, [*low, high, *looks], policy=policy).run().told
    assert told["high"].started == [191], "after its forbearance and their grace"


def test_what_its_turn_keeps_for_a_task_does_not_make_a_higher_priority_take_the_place_of_who_loses_more() -> None:
    """It waited long and starts in an hour: until then the cheapest run stays where it is kept for it."""
    brief, dear = Job("brief", Needs(4), 3600, limit=3600), Job("dear", Needs(4), 9000, saves_on_stop=False)
    old = Job("old", Needs(4), 50, arrives=1)
    fourth = Job("fourth", Needs(0), 1, arrives=10)  # after it comes the turn of who has waited longest
    urgent = Job("urgent", Needs(4), 50, arrives=1000, priority=5)
    policy = Policy(turn=3, overdue=5, forbearance=0)
    hosts = [a_host(name, cpus=64, gpus=4) for name in ("w1", "w2")]
    told = Simulation(hosts, [brief, dear, old, fourth, urgent], policy=policy).run().told
    assert (told["brief"].gave_way_to, told["dear"].gave_way_to) == (["urgent"], [])
    assert told["urgent"].started == [1010]


def test_whom_one_of_a_higher_priority_lets_save_gives_way_to_nobody_else_meanwhile() -> None:
    low = running("low", {"w1": (0, 1, 2, 3)}, 9000)
    low = replace(low, saved_at=NOW - 60, saves_every=100)
    high, middle = Waiting("high", Needs(4, 0), 5, queued_at=NOW), Waiting("middle", Needs(2, 0), 1)
    top, stays = Waiting("top", Needs(8, 0), 9), a_run("stays", [("w0", Room(tuple(range(8)), 0.0))], priority=9)
    hosts = [a_host("w0", cpus=64, gpus=8), a_host("w1", cpus=64, gpus=4)]
    state = a_state(hosts, [top, high, middle], [low, stays])
    asked = list[Clearing]()
    for _ in range(3):  # it looks for one task at a time
        found = plan(state, NOW)
        state.put_off, state.in_vain, state.held = found.put_off, found.in_vain, found.held
        asked += found.clearings
    assert ([*state.put_off], asked) == (["high"], [])
    state.queue.drop("high")
    state.queue.drop("top")
    state.in_vain = {}
    assert [one.task_id for one in plan(state, NOW).clearings] == ["middle"]


def test_one_whose_time_to_wait_is_over_does_not_wait_for_another_s() -> None:
    """Who comes first by its share and may still wait keeps nobody from asking who is of its rank."""
    low = [running(f"low-{n}", {f"w{n}": (0,)}, 9000) for n in range(2)]
    soon = Waiting("soon", Needs(1, 0), 5, age=1, queued_at=NOW, strategy="a")
    late = Waiting("late", Needs(1, 0), 5, age=2, strategy="b")
    state, asked = a_state([a_host(f"w{n}", gpus=1) for n in range(2)], [soon, late], low), list[str]()
    for _ in range(3):
        found = plan(state, NOW)
        state.put_off, state.in_vain, state.held = found.put_off, found.in_vain, found.held
        asked += [one.task_id for one in found.clearings]
    assert "soon" in state.put_off
    assert asked[:1] == ["late"]
