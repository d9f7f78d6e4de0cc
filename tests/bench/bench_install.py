"""How long `make setup` takes on a machine that has only Python and make: the control plane's environment.

    python -m tests.bench.bench_install

In a fresh clone of what is committed here, with an empty home and so empty caches. The floor is the same again
with what was fetched at hand: what is left is unpacking and compiling.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.figures import say

ROOT = Path(__file__).resolve().parents[2]

CACHES = ("UV_CACHE_DIR", "PIP_CACHE_DIR", "XDG_CACHE_HOME", "VIRTUAL_ENV", "PYTHON", "MAKEFLAGS")


def install(clone: Path, home: Path) -> float:
    """Return how long `make setup` takes in a clone that has no environment yet."""
    shutil.rmtree(clone / ".venv", ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name not in CACHES}
    began = time.monotonic()
    subprocess.run(
        ["make", "setup"], cwd=clone, env={**environment, "HOME": str(home)}, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - began


def size(folder: Path) -> float:
    """Return the megabytes below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) / 1e6


def main() -> None:
    """Measure a first installation and a second one."""
    with tempfile.TemporaryDirectory(prefix="trainwright-install-") as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
        first = install(clone, home)
        say("make setup, nothing cached", f"{first:6.1f} s", "60 s")
        again = install(clone, home)
        say("  the same with what was fetched at hand (the floor)", f"{again:6.1f} s")
        say("  ratio", f"{first / again:6.1f} ×")
        say("  .venv", f"{size(clone / '.venv'):6.0f} MB")
        probe = [
            str(clone / ".venv/bin/python"),
            "-c",
            "import services.app, importlib.util as u; print(u.find_spec('torch'))",
        ]
        found = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()
        say("  torch in it", found)


if __name__ == "__main__":
    main()
