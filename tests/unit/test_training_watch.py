"""A watcher ends what hangs, diverges or runs out of time, and leaves every healthy run alone, however odd."""

import math
import random
from collections.abc import Iterable, Sequence
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainwright.contracts.failure import FailureClass
from trainwright.contracts.task_config import Watch
from trainwright.training.spool import Record
from trainwright.training.watch import BUSY_TIMES, EDGE_TIMES, Health, Trouble

NAN, INF = math.nan, math.inf
MANY = settings(max_examples=30)
SEEDS = st.integers(0, 2**32 - 1)


def record(seq: int, time: float, step: int, total: int | None = None, **values: float) -> Record:
    return Record(seq=seq, time=time, step=step, total_steps=total, values=values)


def losses(values: Iterable[float], name: str = "loss") -> list[Record]:
    """Return records of a second each, steps from 1."""
    return [Record(n, float(n), n, None, {name: value}) for n, value in enumerate(values, 1)]


def judged(values: Iterable[float], watch: Watch | None = None, name: str = "loss") -> Trouble | None:
    health = Health(watch or Watch(), None)
    health.seen(losses(values, name), now=0.0)
    return health.trouble(0.0, 0.0)


class Watched:
    """A run in simulated time: `step()` after a pause, then see whether the watcher minds."""

    def __init__(self, watch: Watch | None = None, timeout: float | None = None, total: int | None = None) -> None:
        self.health = Health(watch or Watch(), timeout)
        self.now = 1000.0
        self.cpu = 0.0
        self.total = total
        self.count = 0
        self.trouble: Trouble | None = None
        self.health.seen([], self.now)

    def wait(self, seconds: float, cores: float = 0.0, poll: float = 1.0) -> Trouble | None:
        """Let time pass with a look every second; return the first trouble."""
        until = self.now + seconds
        while self.now < until and self.trouble is None:
            passed = min(poll, until - self.now)
            self.now += passed
            self.cpu += cores * passed
            self.trouble = self.health.trouble(self.now, self.cpu)
        return self.trouble

    def steps(self, pauses: Sequence[float], cores: float = 0.0) -> Trouble | None:
        for pause in pauses:
            if self.wait(pause, cores) is not None:
                break
            self.count += 1
            values = {"loss": 1 / self.count}
            self.health.seen([record(self.count, self.now, self.count, self.total, **values)], self.now)
        return self.trouble


# -- hung ------------------------------------------------------------------------------------------------------


def test_a_run_without_a_step_for_long_hangs_and_the_message_says_what_is_usual() -> None:
    run = Watched()
    assert run.steps([0.5] * 100) is None
    assert run.wait(59) is None
    trouble = run.wait(2)
    assert trouble is not None
    assert (trouble.failure_class, trouble.bad_step) == (FailureClass.HUNG, None)
    assert trouble.message == (
        "no step for 60 s after step 100, and its processes do not compute; "
        "99 of 100 steps take at most 0.5 s, the longest pause was 0.5 s"
    )


def test_slow_steps_give_more_time() -> None:
    run = Watched()
    run.steps([20.0] * 20)
    assert run.wait(199) is None
    assert run.wait(2) is not None


def test_a_pause_that_once_ended_by_itself_may_come_again() -> None:
    run = Watched()
    run.steps([0.1] * 300 + [55.0] + [0.1] * 300)
    assert run.wait(160) is None
    assert run.wait(10) is not None


def test_before_the_first_step_nothing_hangs() -> None:
    run = Watched()
    assert run.wait(86_400, poll=60) is None
    assert run.steps([1.0] * 3) is None


def test_a_run_that_has_hardly_begun_gets_more_time() -> None:
    run = Watched(Watch(hang_after=2))
    run.steps([0.1] * 3)
    assert run.wait(2 * EDGE_TIMES - 1) is None
    assert run.wait(2) is not None


def test_a_run_that_computes_gets_more_time_but_not_for_ever() -> None:
    run = Watched()
    run.steps([0.1] * 100, cores=1.0)
    assert run.wait(60 * BUSY_TIMES - 5, cores=0.5) is None
    trouble = run.wait(10, cores=0.5)
    assert trouble is not None
    assert "no step for 30 min after step 100, though its processes compute" in trouble.message


def test_a_process_that_ends_takes_its_cpu_time_with_it() -> None:
    run = Watched()
    run.steps([0.1] * 100, cores=1.0)
    run.cpu = 0.0  # the data loader's workers have gone
    assert run.wait(120, cores=1.0) is None


@pytest.mark.parametrize("last", [1000, 999])
def test_after_the_last_step_a_run_evaluates_and_saves(last: int) -> None:
    run = Watched(total=1000)
    run.count = last - 50
    run.steps([0.1] * 50)
    assert run.wait(60 * EDGE_TIMES - 2) is None
    assert run.wait(5) is not None


def test_a_run_that_logs_every_tenth_step_is_near_its_end_one_record_before() -> None:
    health = Health(Watch(), None)
    for n in range(100):
        health.seen([record(n + 1, float(n), n * 10, 1000, loss=1.0)], float(n))
    assert health.trouble(99.0 + 300, 0.0) is None


def test_what_is_logged_between_steps_is_a_sign_of_life() -> None:
    run = Watched()
    run.steps([0.1] * 100)
    for _ in range(20):
        assert run.wait(50) is None
        run.health.seen([record(0, run.now, 100, accuracy=0.5)], run.now)


def test_a_watcher_that_slept_gives_every_run_its_full_time_again() -> None:
    run = Watched()
    run.steps([0.1] * 100)
    run.now += 90
    run.health.slept(run.now)
    assert run.wait(59) is None
    assert run.wait(2) is not None


def test_an_adopted_run_is_known_by_what_it_wrote_before() -> None:
    """One line an epoch, ten minutes each, all read at once; a watcher that went by arrivals would end it."""
    health = Health(Watch(), None)
    health.seen([record(n, 600.0 * n, n, loss=1.0) for n in range(1, 20)], 5000.0)
    assert health.trouble(5000.0 + 1700, 0.0) is None
    assert health.trouble(5000.0 + 6100, 0.0) is not None


def test_a_clock_that_is_set_back_harms_nothing() -> None:
    health = Health(Watch(), None)
    health.seen([record(n, 1000.0 * (-1) ** n, n, loss=1.0) for n in range(1, 20)], 0.0)
    assert health.trouble(59.0, 0.0) is None


def test_nobody_watches_for_hanging_when_told_so() -> None:
    run = Watched(Watch(hang=False))
    run.steps([0.1] * 100)
    assert run.wait(100_000, poll=100) is None


def test_no_time_at_all_still_leaves_the_time_of_a_poll() -> None:
    run = Watched(Watch(hang_after=0))
    assert run.steps([0.01] * 100) is None
    assert run.wait(0.4, poll=0.1) is None
    assert run.wait(1, poll=0.1) is not None


@MANY
@given(SEEDS, st.floats(0.001, 50), st.floats(0, 2), st.floats(0, 1))
def test_irregular_steps_are_never_taken_for_hanging(
    seed: int, usual: float, spread: float, pauses: float
) -> None:
    """Step times of any usual length with a long tail, and pauses of less than a minute at any time."""
    chance = random.Random(seed)
    run = Watched()
    waits = [usual * chance.lognormvariate(0, spread) for _ in range(40)]
    # What is longer than a minute must be usual: no more than ten times what 99 of 100 keep.
    longest = max(59.0, 9 * min(waits[:10]))
    waits = [min(wait, longest) for wait in waits]
    waits = [wait + (chance.uniform(0, max(0.0, 59 - wait)) if chance.random() < pauses else 0) for wait in waits]
    assert run.steps(waits) is None


# -- diverged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_loss_that_stays_no_number_has_diverged_since_the_first_of_them(bad: float) -> None:
    good = [1 / n for n in range(1, 51)]
    assert judged([*good, *[bad] * 4]) is None
    trouble = judged([*good, *[bad] * 5])
    assert trouble is not None
    assert (trouble.failure_class, trouble.bad_step) == (FailureClass.DIVERGED, 51)
    assert trouble.message == f"loss is no finite number ({bad}) since step 51"


def test_it_may_be_no_number_from_the_first_step_on() -> None:
    trouble = judged([NAN] * 5)
    assert trouble is not None
    assert trouble.bad_step == 1


def test_infinite_first_losses_of_half_precision_are_well() -> None:
    assert judged([*[INF] * 19, 3.0, 2.0]) is None
    assert judged([INF] * 20) is not None


def test_what_rose_before_it_was_no_number_was_not_well_either() -> None:
    """A checkpoint of a loss of 1e30 is no place to go on from."""
    calm = [1.0, 0.9, 0.8, 0.7, 0.6] * 8
    trouble = judged([*calm, *[4.0**n for n in range(2, 60)], *[INF] * 5])
    assert trouble is not None
    assert trouble.bad_step is not None
    assert 40 < trouble.bad_step <= 43


def test_a_run_that_rises_from_the_first_step_has_no_good_checkpoint() -> None:
    trouble = judged([*[3.0**n for n in range(1, 30)], *[NAN] * 5])
    assert trouble is not None
    assert trouble.bad_step is not None
    assert trouble.bad_step <= 6


@pytest.mark.parametrize("name", ["train_loss", "train/loss", "training_loss"])
def test_the_usual_other_names_are_watched_for_want_of_a_loss(name: str) -> None:
    assert judged([NAN] * 5, name=name) is not None
    assert judged([NAN] * 5, Watch(loss="total"), name=name) is None
    health = Health(Watch(), None)
    health.seen([Record(n, float(n), n, None, {"loss": 1.0, name: NAN}) for n in range(1, 30)], 0.0)
    assert health.trouble(0.0, 0.0) is None


def test_the_metric_named_by_the_task_is_watched_and_no_other() -> None:
    assert judged([NAN] * 5, Watch(loss="total"), name="total") is not None
    assert judged([NAN] * 5, Watch(loss="total")) is None
    assert judged([NAN] * 50, name="val_loss") is None
    assert judged([NAN] * 50, Watch(loss=None)) is None
    assert judged([NAN] * 50, Watch(divergence=False)) is None


def test_records_without_the_loss_do_not_interrupt_a_streak() -> None:
    health = Health(Watch(), None)
    for n in range(1, 6):
        health.seen([record(2 * n, n, n, loss=NAN), record(2 * n + 1, n, n, accuracy=0.5)], float(n))
    assert health.trouble(5.0, 0.0) is not None


@MANY
@given(SEEDS, st.floats(1.15, 10), st.integers(50, 400), st.floats(1e-6, 1e6))
def test_an_exploding_loss_is_found_with_the_step_at_which_it_began(
    seed: int, growth: float, start: int, level: float
) -> None:
    chance = random.Random(seed)
    calm = [level * (chance.lognormvariate(0, 0.2) + 5 * math.exp(-n / 10)) for n in range(start)]
    burst = list(accumulate([level] * 200, lambda value, _: min(value * growth, 1e300)))
    trouble = judged([*calm, *burst])
    assert trouble is not None
    assert trouble.failure_class is FailureClass.DIVERGED
    assert trouble.bad_step is not None
    assert start - 10 <= trouble.bad_step <= start + math.log(10) / math.log(growth) + 2
    assert "exploded from" in trouble.message


def test_a_loss_that_jumps_up_and_stays_there_has_exploded() -> None:
    trouble = judged([*[0.5] * 100, *[2e4, 7e3, 4e4, 9e3] * 10])
    assert trouble is not None
    assert trouble.bad_step == 101


def test_what_creeps_up_must_have_grown_a_billionfold() -> None:
    creeping = [1.02**n for n in range(1200)]
    assert judged(creeping[:1000]) is None
    assert judged(creeping) is not None


@MANY
@given(SEEDS, st.floats(1e-8, 1e8), st.floats(0, 1.2), st.integers(20, 300), st.floats(0, 0.08))
@example(seed=1, level=1e8, noise=1.0, cycle=50, spikes=0.08)
def test_healthy_losses_are_left_alone(seed: int, level: float, noise: float, cycle: int, spikes: float) -> None:
    """Decay to almost nothing, restarts of the learning rate, noise of any size, spikes of any height."""
    chance = random.Random(seed)
    values = []
    for step in range(800):
        value = level * (math.exp(-(step % cycle) / 15) + 1e-9) * chance.lognormvariate(0, noise)
        values.append(chance.choice([INF, NAN, value * 1e12]) if chance.random() < spikes else value)
    for n in range(4, len(values)):  # never five in a row: that is what a broken loss looks like
        if not any(map(math.isfinite, values[n - 4 : n + 1])):
            values[n] = level
    assert judged(values) is None


@MANY
@given(SEEDS, st.floats(0, 12))
def test_losses_with_a_sign_are_never_taken_for_exploded(seed: int, decades: float) -> None:
    chance = random.Random(seed)
    values = [-1.0, *(chance.gauss(0, 1) * 10 ** chance.uniform(0, decades) for _ in range(500))]
    assert judged(values) is None


@MANY
@given(SEEDS, st.floats(0.5, 4), st.floats(1e-3, 1e3), st.integers(200, 2000))
def test_losses_that_grow_with_the_rewards_are_left_alone(
    seed: int, power: float, level: float, count: int
) -> None:
    chance = random.Random(seed)
    values = [level * (1 + (n / 20) ** power) * chance.lognormvariate(0, 0.5) for n in range(count)]
    assert judged(values) is None


@MANY
@given(SEEDS, st.floats(0.1, 0.6))
def test_adversaries_that_wander_within_their_bounds_are_left_alone(seed: int, pace: float) -> None:
    chance = random.Random(seed)
    values, level = [], 1.0
    for _ in range(800):
        level = min(60.0, max(0.01, level * chance.lognormvariate(0, pace)))
        values.append(level)
    assert judged(values) is None


# -- timed out -------------------------------------------------------------------------------------------------


def test_time_runs_from_the_first_call_and_goes_on_while_the_watcher_sleeps() -> None:
    run = Watched(Watch(hang=False), timeout=7200)
    run.steps([10.0] * 300)
    run.now += 4000
    run.health.slept(run.now)
    assert run.wait(199) is None
    trouble = run.wait(1)
    assert trouble is not None
    assert trouble.failure_class is FailureClass.TIMED_OUT
    assert trouble.message == "it has trained for 2.0 h; the task's timeout is 2.0 h"


# -- idle ------------------------------------------------------------------------------------------------------


def test_a_run_that_does_nothing_is_idle_and_one_that_computes_now_and_then_is_not() -> None:
    run = Watched(Watch(idle_after=600))
    for _ in range(5):
        assert run.wait(550) is None
        assert run.wait(30, cores=0.5) is None
    trouble = run.wait(620, cores=0.001)
    assert trouble is not None
    assert trouble == Trouble(None, "its processes have done nothing for 10 min; `idle_after` is 10 min")
    assert Watched().wait(10**5) is None, "nobody asked"


def test_gpus_that_do_nothing_are_idle_whatever_the_processor_does() -> None:
    health = Health(Watch(idle_after=100), None)
    works = [True, False, False, False, True] + [False] * 20
    found = [health.trouble(10.0 * n, 10.0 * n, gpus_work=at_work) for n, at_work in enumerate(works)]
    assert [trouble is not None for trouble in found] == [False] * 14 + [True] * 11
    assert found[14] == Trouble(None, "its GPUs have done nothing for 100 s; `idle_after` is 100 s")


def test_who_was_held_has_not_been_idle() -> None:
    run = Watched(Watch(idle_after=100))
    assert run.wait(90) is None
    run.now += 500
    run.health.slept(run.now)
    assert run.wait(95) is None
    assert run.wait(10) is not None


def test_time_before_an_adoption_counts() -> None:
    health = Health(Watch(), timeout_seconds=100, elapsed=90)
    assert health.trouble(0.0, 0.0) is None
    assert health.trouble(9.0, 0.0) is None
    assert health.trouble(10.0, 0.0) is not None


def test_trouble_stays_until_the_run_has_gone() -> None:
    health = Health(Watch(), None)
    health.seen(losses([NAN] * 5), 0.0)
    first = health.trouble(0.0, 0.0)
    health.seen(losses([1.0] * 5), 1.0)
    assert health.trouble(1.0, 0.0) == first
