"""The command's entry point and its table of groups. Not here: what the commands do."""

import os
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from trainwright.cli import (
    config,
    dead,
    demo,
    events,
    model,
    observe,
    resource,
    run,
    submit,
    task,
    webhook,
    worker,
)
from trainwright.cli.console import FAILED, UNREAD, CommandError, complain
from trainwright.cli.session import advice, take_shared_options

EPILOG = (
    "Everywhere: --home DIR names the home of a local platform (or TRAINWRIGHT_HOME; else .trainwright here or "
    "above), --url and --key another platform (or TRAINWRIGHT_URL, TRAINWRIGHT_API_KEY). "
    "Exit codes: 0 completed, 1 failed, 2 wrong usage, 130 interrupted or paused, 141 its output is read no more."
)

app = typer.Typer(
    name="trainwright",
    help="Train models as events: submit tasks, watch them, see what came out.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

submit.register(app)
run.register(app)
observe.register(app)
demo.register(app)
app.add_typer(task.app, name="task")
app.add_typer(config.app, name="config")
app.add_typer(worker.app, name="worker")
app.add_typer(resource.app, name="resource")
app.add_typer(model.app, name="model")
app.add_typer(events.app, name="events")
app.add_typer(webhook.app, name="webhook")
app.add_typer(dead.app, name="dead")
if find_spec("trainwright.cli.platform") is not None:
    import_module("trainwright.cli.platform").register(app)


def _version(show: bool) -> None:
    if show:
        import trainwright

        typer.echo(f"trainwright {trainwright.__version__}")
        raise typer.Exit


@app.callback()
def _shared(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line; a person sees sentences, never a traceback (unless TRAINWRIGHT_TRACE is set)."""
    # A shell starts background jobs with Ctrl-C ignored; whoever sends it means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        arguments = take_shared_options(sys.argv[1:])
        command = typer.main.get_command(app)
        _flags_without_value(command, typer.Context(command, **command.context_settings))
        command(arguments)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer says 1, as of any failure
            sys.exit(UNREAD)
        raise
    except CommandError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("TRAINWRIGHT_TRACE"):
            raise
        complain(_sentence(error))
        sys.exit(FAILED)


def _flags_without_value(command: Any, context: typer.Context) -> None:
    """Let help show a flag as `--flag`; Typer adds the type of a value, which a flag does not take."""
    for option in command.get_params(context):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for name, below in getattr(command, "commands", {}).items():
        _flags_without_value(below, typer.Context(below, parent=context, info_name=name))


def _sentence(error: Exception) -> str:
    from trainwright.client import TrainwrightError

    if isinstance(error, TrainwrightError):
        return advice(error)
    if isinstance(error, UnicodeEncodeError):  # a path may have such bytes, what is sent cannot
        return f"{error.object[error.start : error.end]!r} in what was given is no UTF-8"
    name = type(error).__name__
    return f"unexpected {name}: {error} (set TRAINWRIGHT_TRACE=1 and run it again to see where)"


if __name__ == "__main__":
    main()
