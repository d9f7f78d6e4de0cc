"""`trainwright up --workers auto`: workers come when tasks wait, are replaced when killed, and go when idle."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.e2e.platform_up import FINAL, Platform, platform, script, submit
from tests.harness import eventually

HELD = """
import os, sys, time
import trainwright

run, again = trainwright.init(), os.path.exists(sys.argv[1])
open(sys.argv[1], "w").close()
for step in range(20):
    run.log(step, {"value": step}, total_steps=20)
    while step == 10 and not again:
        time.sleep(0.05)
"""


def state(up: Platform) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(up.cli("status", "--json").stdout)
    return found


def workers(up: Platform) -> dict[str, int]:
    listed = json.loads((up.home / "state.json").read_text())["processes"]
    return {one["name"]: one["pid"] for one in listed if one["name"].startswith("worker-") and one["pid"]}


async def test_from_none_to_as_many_as_wait_and_back_to_none(tmp_path: Path) -> None:
    with (
        platform(
            tmp_path / "home",
            workers="auto --max-workers 2",
            PROVISIONER_COOL_DOWN="2",
            PROVISIONER_EVERY="0.2",
            PROVISIONER_SETTLE="1",
        ) as up,
        up.client() as api,
    ):
        assert workers(up) == {}
        first = submit(api, script(tmp_path / "held.py", HELD, str(tmp_path / "begun")))
        impossible = submit(
            api, {**script(tmp_path / "huge.py", "print()"), "resource_requirements": {"cpu": 4000}}
        )
        await eventually((tmp_path / "begun").exists, within=60, what="it runs")
        (killed,) = workers(up).values()
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: api.get(f"/tasks/{first}").json()["status"] in FINAL, within=90, what="it ends")
        assert api.get(f"/tasks/{first}").json()["status"] == "completed"
        await eventually(lambda: workers(up) == {}, within=60, what="no worker is left")
        said = state(up)["provisioner"]
        assert (said["machines"], said["waiting"]) == ({}, 1)
        assert "fits no class" in said["notes"][0]
        assert "workers as needed: 0 of 2; 1 waiting for a place" in up.cli("status").stdout
        assert api.get(f"/tasks/{impossible}").json()["status"] == "pending"
        log = (up.home / "logs" / "provisioner.log").read_text()
        assert log.count("starting worker-") == log.count("ending worker-") == 1, "nothing flapped"
