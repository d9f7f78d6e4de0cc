"""The short form of the campaign; the full one is `make faults`."""

import sys
from pathlib import Path

import pytest

from tests.faults.kill_everything import campaign


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.timeout(420)
def test_nothing_is_lost_or_doubled_when_everything_is_killed(tmp_path: Path) -> None:
    verdict = campaign(tmp_path / "home", tasks=16, kills=4, seed=7)
    assert verdict.wrong == [], verdict.line()
