"""`trainwright up`, `down`, `status`. Not here: what they do (trainwright.embedded.platform)."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from trainwright.cli.console import COMPLAINT, INTERRUPTED, complain, json_line, rich_console, size, stop, table
from trainwright.cli.session import again
from trainwright.client.connection import DEFAULT_HOME, find_home

if TYPE_CHECKING:
    from trainwright.embedded.home import Home
    from trainwright.embedded.platform import Started

DETACHED = "TRAINWRIGHT_DETACHED"
"""Set for the process behind `up --detach`: nobody reads what it says but its log."""

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder that holds everything; default TRAINWRIGHT_HOME, else .trainwright."),
]
PortOption = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65_535, help="Port of the API; default the one used last, else 8700."),
]
MOST = 64
AUTO = "auto"


def _count(text: str) -> str:
    """Refuse what is no number of workers."""
    if text != AUTO and not (text.isdecimal() and int(text) <= MOST):
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor a number from 0 to {MOST}")
    return text


WorkersOption = Annotated[
    str,
    typer.Option(
        "--workers",
        callback=_count,
        metavar="N|auto",
        help="Workers on this machine. auto: none while nothing waits, started and ended as tasks need them.",
    ),
]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--max-workers",
        min=1,
        max=MOST,
        help="Most workers with --workers auto; they share the machine evenly. Default: one for each GPU, or one.",
    ),
]
DetachOption = Annotated[bool, typer.Option("--detach", "-d", help="Return when ready; it goes on running.")]
SeparateOption = Annotated[
    bool, typer.Option("--separate", help="Every service a process of its own, on the ports after --port.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the commands of the local platform."""
    app.command()(up)
    app.command()(down)
    app.command()(status)


def up(
    home: HomeOption = None,
    port: PortOption = None,
    workers: WorkersOption = "1",
    max_workers: MaxWorkersOption = None,
    detach: DetachOption = False,
    separate: SeparateOption = False,
) -> None:
    """Start Kafka, all services and workers on this machine; Ctrl-C stops them."""
    from trainwright.embedded import platform
    from trainwright.embedded.errors import EmbeddedError

    if max_workers is not None and workers != AUTO:
        raise typer.BadParameter(f"it limits --workers auto, not --workers {workers}", param_hint="--max-workers")
    count = None if workers == AUTO else int(workers)
    options = platform.Options(_home(home), port, count, separate, max_workers)
    try:
        if detach:
            _start_detached(options)
            return
        was_ready = platform.up(options, say=_say, on_ready=_show_started)
    except EmbeddedError as error:
        stop(str(error))
    typer.echo("Stopped. Everything is kept: runs go on from their checkpoints at the next `trainwright up`.")
    if not was_ready:
        raise typer.Exit(INTERRUPTED)


def down(home: HomeOption = None) -> None:
    """Stop what `up` started and wait until it is gone; runs save a checkpoint and go on at the next `up`."""
    from trainwright.embedded import platform
    from trainwright.embedded.errors import EmbeddedError
    from trainwright.embedded.home import Home

    place = Home(_home(home))
    try:
        runs = len(platform.status(place)["runs"])
        stopped = platform.down(place, say=_say)
    except EmbeddedError as error:
        stop(str(error))
    if not stopped:
        typer.echo(f"Nothing runs on the home {place.path}.")
        return
    goes = "1 run goes on from its checkpoint" if runs == 1 else f"{runs} runs go on from their checkpoints"
    typer.echo(f"Stopped. {goes} at the next `{again('up')}`." if runs else "Stopped.")


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what runs on this machine: processes, ports, memory."""
    from trainwright.embedded import platform
    from trainwright.embedded.home import Home

    found = platform.status(Home(_home(home)))
    if as_json:
        json_line(found)
        return
    _show_status(found)


def _home(given: Path | None) -> Path:
    return (find_home(given) or Path.cwd() / DEFAULT_HOME).expanduser().absolute()


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; what runs need not care
        typer.echo(line)


def _show_started(started: "Started") -> None:
    if os.environ.get(DETACHED):
        return
    console = rich_console()
    console.print(f"\n[bold green]Ready[/] after {started.seconds:.1f} s at [bold]{started.url}[/]")
    console.print(f"  admin key  {started.api_key_file}  (the command line finds it by itself)", markup=False)
    console.print(f"  data       {started.home}", markup=False)
    console.print(f"  next       {again('submit FILE.yaml --watch')}", markup=False)
    console.print(f"  stop       Ctrl-C here, or `{again('down')}`\n", markup=False)


def _show_status(found: dict[str, Any]) -> None:
    console = rich_console()
    if not found["running"] and not found["processes"]:
        console.print(f"Nothing runs on the home {found['home']}; start it with `{again('up')}`.", markup=False)
    else:
        word = "ready" if found["ready"] else "not ready"
        console.print(f"{word} at {found['url']}, Kafka at {found['kafka']}, home {found['home']}", markup=False)
        table(
            ["process", "pid", "state", "port", "memory", "restarts"],
            [
                (
                    entry["name"],
                    entry["pid"] or "",
                    entry["state"],
                    entry["port"] or "",
                    "" if entry["memory"] is None else size(entry["memory"]),
                    entry["deaths"] or "",
                )
                for entry in found["processes"]
            ],
            empty="",
        )
    _show_provisioner(found["provisioner"] if found["running"] else None)
    if found["runs"]:
        count = len(found["runs"])
        console.print("1 run is at work" if count == 1 else f"{count} runs are at work", markup=False)


def _show_provisioner(said: dict[str, Any] | None) -> None:
    """Say how many workers there are of how many, how many tasks wait for more, and what keeps them waiting."""
    if said is None:
        return
    console = rich_console()
    waiting = "nothing waits" if said["waiting"] == 0 else f"{said['waiting']} waiting for a place"
    console.print(f"workers as needed: {len(said['machines'])} of {said['max_workers']}; {waiting}", markup=False)
    for name, state in said["machines"].items():
        console.print(f"  {name}  {state}", markup=False)
    for note in said["notes"]:
        console.print(f"  {note}", markup=False)


def _start_detached(options: Any) -> None:
    """Start the same `up` without a terminal and wait until it is ready, or say why it is not."""
    from trainwright.embedded.home import Home
    from trainwright.embedded.process import rotate, tail

    home = Home(options.home)
    home.create()
    log = home.log("supervisor")
    rotate(log)
    began, before = time.monotonic(), log.stat().st_size if log.exists() else 0
    with open(log, "ab") as output:
        child = subprocess.Popen(
            _command(options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, DETACHED: "1"},
        )
    try:
        with open(log, encoding="utf-8", errors="replace") as says:
            says.seek(before)
            while child.poll() is None and not _is_ready(home, child.pid):
                _pass_on(says)
                time.sleep(0.05)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise typer.Exit(INTERRUPTED) from None
    if child.returncode is not None:
        said = tail(log, 40, log.stat().st_size - before).removeprefix(COMPLAINT)
        stop(said or f"It ended with exit code {child.returncode} and said nothing")
    state = home.state()
    typer.echo(f"Ready after {time.monotonic() - began:.1f} s at {state['url']} (pid {child.pid})")
    typer.echo(f"  admin key  {home.api_key_file}\n  logs       {home.logs}\n  stop       {again('down')}")
    child.returncode = 0  # it is left running on purpose; keeps Popen from warning about it


def _pass_on(says: TextIO) -> None:
    """Show what takes long, such as a first start that fetches Kafka; why it ended is told by who waits for it."""
    while (line := says.readline()) and not line.startswith(COMPLAINT):
        typer.echo(line, nl=False)


def _command(options: Any) -> list[str]:
    command = [sys.executable, "-P", "-m", "trainwright.cli.platform", "up", "--home", str(options.home)]
    command += ["--workers", AUTO if options.workers is None else str(options.workers)]
    command += ["--max-workers", str(options.max_workers)] if options.max_workers else []
    command += ["--port", str(options.port)] if options.port else []
    return command + (["--separate"] if options.separate else [])


def _is_ready(home: "Home", pid: int) -> bool:
    state = home.state()
    return state.get("supervisor") == pid and state.get("ready") is True


def main() -> None:
    """Run these commands alone, as the process behind `up --detach` does."""
    from trainwright.cli.console import CommandError

    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    register(app)
    try:
        app()
    except CommandError as error:
        complain(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
