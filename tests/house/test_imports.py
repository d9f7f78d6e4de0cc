"""Importing does nothing: no connection, no thread, and no heavy package where it does not belong."""

import subprocess
import sys
import textwrap

import pytest

from tests.house.house import ROOT

IMPORT_ALL = textwrap.dedent(
    """
    import importlib, pkgutil, socket, sys, threading

    def refuse(*_, **__):
        raise AssertionError("a module connects while it is imported")

    socket.socket.connect = socket.socket.bind = refuse
    socket.create_connection = socket.getaddrinfo = refuse
    import services, trainwright

    for package in (trainwright, services):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    ours = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert not ours, f"imports started threads: {ours}"
    """
)

LIGHT = ["trainwright", "trainwright.cli.main", "trainwright.client", "trainwright.contracts.topics"]
HEAVY = {"torch", "pandas", "matplotlib", "aiokafka", "fastapi"}
CONTROL_PLANE_HEAVY = {"torch", "pandas", "matplotlib"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages that importing a module loads."""
    result = run(f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_every_module_imports_without_a_socket_or_a_thread() -> None:
    result = run(IMPORT_ALL)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", LIGHT)
def test_what_people_import_stays_light(module: str) -> None:
    assert loaded_by(module) & HEAVY == set()


def test_the_control_plane_starts_without_what_only_training_and_reports_need() -> None:
    assert loaded_by("services.app") & CONTROL_PLANE_HEAVY == set()


@pytest.mark.unmeasured
def test_importing_trainwright_costs_nothing() -> None:
    """A user's script pays only for what it uses: the root loads nothing but a little of the standard library."""
    loaded = loaded_by("trainwright") - set(sys.stdlib_module_names)
    assert {name for name in loaded if not name.startswith("_")} == {"trainwright"}
    submodules = run("import sys, trainwright; print(*[n for n in sys.modules if n.startswith('trainwright.')])")
    assert submodules.stdout.split() == []
