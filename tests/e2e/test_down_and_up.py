"""What survives `down` and `up`: everything; what ran is run again."""

import time
from pathlib import Path

from tests.e2e.platform_up import FINAL, platform, script, submit
from tests.faults.processes import processes_of
from tests.patience import patient

HELD = """
import os, sys, time
import trainwright

run = trainwright.init()
for step in range(60):
    run.log(step, {"value": step}, total_steps=60)
    while step == 10 and not os.path.exists(sys.argv[1]):
        time.sleep(0.05)
"""


def test_what_ran_runs_again_and_what_was_kept_is_there(tmp_path: Path) -> None:
    home, go = tmp_path / "home", tmp_path / "go"
    with platform(home) as up:
        with up.client() as api:
            done = submit(api, script(tmp_path / "done.py", "print('done')"))
            running = submit(api, script(tmp_path / "held.py", HELD, str(go)))
            while api.get(f"/tasks/{done}").json()["status"] not in FINAL:
                time.sleep(0.1)
            while api.get(f"/tasks/{running}").json()["progress"]["current_step"] < 5:
                time.sleep(0.1)
        up.down()
        assert processes_of(home) == [], "nothing lives on"
        up.up()
        go.touch()
        with up.client() as api:
            assert api.get(f"/tasks/{done}").json()["status"] == "completed"
            assert api.get(f"/tasks/{done}/logs").json()["entries"][0]["message"] == "done"
            while (task := api.get(f"/tasks/{running}").json())["status"] not in FINAL:
                time.sleep(0.1)
            assert (task["status"], task["attempt"], task["losses"]) == ("completed", 2, 1)
            deadline = patient(10)
            points: list[list[float]] = []
            while len(points) != 60 and time.monotonic() < deadline:
                answer = api.get(f"/tasks/{running}/metrics", params={"name": "value"})
                points = answer.json()["points"]
            assert points == [[step, step] for step in range(60)], "only the second attempt's points are shown"


def test_two_homes_side_by_side(tmp_path: Path) -> None:
    with platform(tmp_path / "one") as one, platform(tmp_path / "two") as two:
        with one.client() as api:
            only_here = submit(api, script(tmp_path / "here.py", "print('here')"))
        with two.client() as api:
            assert api.get(f"/tasks/{only_here}").status_code == 404
        with one.client() as api:
            while api.get(f"/tasks/{only_here}").json()["status"] not in FINAL:
                time.sleep(0.1)
