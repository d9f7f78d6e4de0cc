"""From a submission to the first line of its script: Trainwright beside Ray Jobs, in turns, on one machine.

    python -m tests.bench.bench_first_line RAY_PYTHON [times]

`RAY_PYTHON` is a Python of another environment with `ray[default]`; without it there is nothing to compare with.
Both run the same script with the same kind of Python; both are warm, and asked over HTTP.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench.bench_platform import FIRST_LINE
from tests.bench.figures import say, spread
from tests.e2e.platform_up import FINAL, platform, script, submit

Ask = Callable[[Path], float]
"""Has a script write when it began to a file, and returns when it was submitted, in Unix seconds."""


@contextmanager
def ray_jobs(python: str, file: Path) -> Iterator[Ask]:
    """Run Ray's job server to the end of the block."""
    command = [python, str(Path(__file__).with_name("ray_jobs.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = process.stdout.readline().split()
        assert answer[:1] == ["ready"], "Ray did not start"
        say("peer: Ray", answer[1])

        def ask(mark: Path) -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{file} {mark}\n")
            process.stdin.flush()
            begun, status = process.stdout.readline().split()
            assert status == "SUCCEEDED", status
            return float(begun)

        yield ask
        process.stdin.close()


def trainwright(api: httpx.Client, file: Path, mark: Path) -> float:
    """Submit to our platform, and wait for the end."""
    begun = time.time()
    task_id = submit(api, script(file, FIRST_LINE, str(mark)))
    while api.get(f"/tasks/{task_id}").json()["status"] not in FINAL:
        time.sleep(0.05)
    return begun


def main(python: str, times: int) -> None:
    """Measure in turns, and print a line per figure."""
    with tempfile.TemporaryDirectory(prefix="trainwright-bench-") as name:
        folder = Path(name)
        file = folder / "first.py"
        file.write_text(FIRST_LINE)
        with platform(folder / "home") as up, up.client() as api, ray_jobs(python, file) as ray:
            peers: dict[str, Ask] = {"Trainwright": lambda mark: trainwright(api, file, mark), "Ray Jobs": ray}
            waits: dict[str, list[float]] = {peer: [] for peer in peers}
            for number in range(times + 1):
                for peer, ask in peers.items():
                    mark = folder / f"{peer[:3]}-{number}"
                    begun = ask(mark)
                    waits[peer].append(float(mark.read_text()) - begun)
        medians = []
        for peer, each in waits.items():
            say(f"submit -> a script's first line: {peer}", spread(each[1:]))  # the first is a warm-up
            medians.append(statistics.median(each[1:]))
        say("Trainwright beside Ray Jobs", f"{medians[0] / medians[1]:.2f}", "≤ 0.5")


if __name__ == "__main__":
    main(sys.argv[1], int([*sys.argv[2:], "10"][0]))
