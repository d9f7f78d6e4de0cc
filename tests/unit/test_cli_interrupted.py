"""Ctrl-C at moments that are hard to meet: while the command is loaded, and again while the demo stops."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

LOADING = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from trainwright.cli import start
start()
"""
PLATFORM = """
import signal, sys, time
asked = []
def stop(number, frame):
    asked.append(number)
    print("asked", len(asked), flush=True)
    if len(asked) == 2:
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""
STOPPING = """
import os, signal, subprocess, sys, threading, time
from pathlib import Path
from trainwright.cli import demo
log = Path(sys.argv[2])
up = subprocess.Popen([sys.executable, sys.argv[1]], stdout=log.open("wb"))

def once(text):
    while text not in log.read_text():
        time.sleep(0.02)

def hurry():
    once("asked 1")
    os.kill(os.getpid(), signal.SIGINT)
    once("asked 2")
    os.kill(os.getpid(), signal.SIGINT)

once("up")
threading.Thread(target=hurry, daemon=True).start()
demo._stop(up)
print("ended with", up.returncode)
"""


def test_ctrl_c_while_the_command_is_loaded_is_an_end_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_who_hurries_the_demo_asks_its_platform_again_and_kills_nothing(tmp_path: Path) -> None:
    (tmp_path / "platform.py").write_text(textwrap.dedent(PLATFORM))
    command = [sys.executable, "-c", STOPPING, str(tmp_path / "platform.py"), str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (signal.Signals(-done.returncode) if done.returncode < 0 else "", done.stderr)
    assert done.stdout == "Stopping everything\nended with 0\n"
