"""`trainwright demo`: the whole path once. Start everything in a home of its own, train on real sales, show what
came out, stop everything.

Not here: how the platform is started and kept running (trainwright.embedded, `trainwright up`).
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trainwright.cli.console import COMPLAINT, COMPLETED, FAILED, INTERRUPTED, stop

if TYPE_CHECKING:
    import subprocess
    from types import FrameType

    from trainwright.client import Client
    from trainwright.contracts.task import TaskView

DOCUMENT = Path("examples") / "walmart.yaml"
PORT = 8700
START_SECONDS = 300.0
STOP_SECONDS = 40.0
HURRIED_SECONDS = 15.0
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo() -> None:
    """Train a forecaster on real sales, from nothing to a report, and stop everything."""
    document = _document()
    home = _home()
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with _platform(home) as client:
            code = _train(client, document, home)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; everything is stopped.", err=True)
        code = INTERRUPTED
    else:
        typer.echo("Everything is stopped. To keep it running: make up")
    raise typer.Exit(code)


def _interrupt(_number: int, _frame: "FrameType | None") -> None:
    raise KeyboardInterrupt


def _document() -> Path:
    """Return the example's document, from this folder or from the source tree of this installation."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (root / DOCUMENT).is_file():
            return root / DOCUMENT
    stop(f"{DOCUMENT} is not here; run the demo in a clone of the project")


def _home() -> Path:
    """Return the demo's own home, so that a platform that runs here is left alone."""
    base = Path(os.environ.get("TRAINWRIGHT_HOME") or ".trainwright").expanduser().absolute()
    return base / "demo"


@contextlib.contextmanager
def _platform(home: Path) -> Iterator["Client"]:
    """Run the platform while the block runs; nothing of it is left after, whatever happened."""
    from trainwright.client import Client, find_connection
    from trainwright.embedded import process

    port = _free_port()
    log = home / "demo.log"
    try:
        home.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        stop(f"the demo's home {home} cannot be used: {error}")
    command = [sys.executable, "-m", "trainwright.cli.main", "up", "--home", str(home), "--port", str(port)]
    typer.echo(f"Starting Kafka, the services and a worker in {home} (ends with this command)")
    environment = {name: value for name, value in os.environ.items() if name != "TRAINWRIGHT_HOME"}
    began = time.monotonic()
    up = process.spawn(command, log=log, environment=environment)
    try:
        _wait_ready(up, home, log)
        typer.echo(f"Ready after {time.monotonic() - began:.1f} s")
        with Client(connection=find_connection(home=home, environ={})) as client:
            yield client
    finally:
        _stop(up)


def _wait_ready(up: "subprocess.Popen[bytes]", home: Path, log: Path) -> None:
    from trainwright.embedded import process
    from trainwright.embedded.home import Home

    deadline = time.monotonic() + START_SECONDS
    said_fetching = False
    while time.monotonic() < deadline:
        if not said_fetching and (fetching := _line_with("Fetching", log)):
            typer.echo(fetching)
            said_fetching = True
        state = Home(home).state()  # an earlier one's may still be there
        if state.get("ready") and state.get("supervisor") == Home(home).holder():
            return
        if up.poll() is not None:
            said = process.tail(log).removeprefix(COMPLAINT)
            stop(said or f"the platform ended at once (exit code {up.returncode}); see {log}")
        time.sleep(0.1)
    stop(f"the platform was not ready after {START_SECONDS:.0f} s; see {log}")


def _line_with(word: str, log: Path) -> str | None:
    """Return what the platform says about a wait that a person should know of."""
    return next((line for line in log.read_text(errors="replace").splitlines() if line.startswith(word)), None)


def _stop(up: "subprocess.Popen[bytes]") -> None:
    """End the platform in order; when hurried, at once. A third Ctrl-C changes nothing: it takes a moment."""
    from trainwright.embedded import process

    try:
        if up.poll() is None:
            typer.echo("Stopping everything")
        process.stop(up, STOP_SECONDS)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, *SIGNALS):
            signal.signal(number, signal.SIG_IGN)
        process.stop(up, HURRIED_SECONDS)  # asked once more, it ends its runs too, which a kill would leave


def _train(client: "Client", document: Path, home: Path) -> int:
    from trainwright.cli import outcome
    from trainwright.cli.documents import prepare, read_document
    from trainwright.cli.submit import send
    from trainwright.cli.watch import view_for, watch

    _cancel_leftovers(client)
    prepared = prepare(read_document(document), document.parent)
    task_id = send(client, prepared, start=True).task_id
    typer.echo(f"Submitted {_short(document)} as {task_id}")
    try:
        task = watch(client, task_id, view_for(as_json=False))
        outcome.tell(client, task, report=False)
        return _show_report(client, task, home) if task.status == "completed" else FAILED
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # it must not run again with the next demo
            client.cancel(task_id)
        raise


def _cancel_leftovers(client: "Client") -> None:
    """End what an earlier demo that was killed has left unfinished."""
    for status in ("pending", "running"):
        for task in client.all_tasks(status=status):
            client.cancel(task.task_id)


def _show_report(client: "Client", task: "TaskView", home: Path) -> int:
    from trainwright.cli.observe import save_report

    path = save_report(client.report(task.task_id), home / f"report-{task.task_id}.html")
    typer.secho(f"report         {path}", bold=True)
    return COMPLETED


def _free_port() -> int:
    """Return the usual port when it is free, else one that the system gives."""
    for wanted in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    stop("no free port could be had on 127.0.0.1")


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
