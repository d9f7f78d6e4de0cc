"""The short form of the simulation: some seeds hold, a seed replays exactly, and planted bugs are caught.

`make simulate` runs as many seeds as one likes, and hunts every planted bug.
"""

import os
import subprocess
import sys
from unittest.mock import patch

import orjson
import pytest

from tests.simulation import simulate
from tests.simulation.mutations import MUTATIONS, hunt
from tests.simulation.simulate import campaign
from trainwright.storage import memory

REPLAY = """
from tests.simulation.simulate import one
print(one((7, 20, 4, 1)).fingerprint)
"""


def test_whatever_is_killed_lost_or_late_every_promise_holds() -> None:
    outcomes = campaign(range(1000, 1012), tasks=20, workers=4, processes=1)
    assert [(outcome.seed, line) for outcome in outcomes for line in outcome.broken] == []
    injected = {what for outcome in outcomes for what in outcome.happened}
    assert injected >= {"program killed", "duplicate", "Kafka away", "store away", "clock set", "event lost"}
    assert injected >= {"cut off", "stopped", "poison", "commit refused"}
    assert {end for outcome in outcomes for end in outcome.ends} >= {"completed", "failed", "cancelled"}


def test_a_seed_replays_exactly_in_another_process() -> None:
    """Whatever Python's hashes of texts are there."""
    found = {
        subprocess.run(
            [sys.executable, "-c", REPLAY],
            env={**os.environ, "PYTHONHASHSEED": number},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == 64


def test_that_what_is_read_is_decoded_once_for_all_readers_changes_nothing() -> None:
    """No handler writes into the event that it was given, or into a document that it read."""
    shared = simulate.one((24, 20, 4, 1))
    with (
        patch.object(simulate, "ONCE", lambda make: make),
        patch.object(memory._Kept, "value", property(lambda kept: orjson.loads(kept.raw))),
    ):
        assert simulate.one((24, 20, 4, 1)).fingerprint == shared.fingerprint


QUICKLY = ("attempt_numbers_are_given_again", "losses_are_charged", "skip_the_inbox", "slots_are_not_freed")


@pytest.mark.parametrize("name", QUICKLY)
def test_a_planted_bug_is_caught(name: str) -> None:
    catch = hunt(name, most=20)
    assert catch.seed is not None, f"{name} was planted and nobody noticed"


def test_there_are_twenty_planted_bugs() -> None:
    assert len(MUTATIONS) >= 20
