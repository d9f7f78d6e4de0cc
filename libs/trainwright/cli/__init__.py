"""The `trainwright` command. One module per group of commands; what takes long to import is imported when used."""

import os
import signal

INTERRUPTED = 130


def start() -> None:
    """Run the command line; Ctrl-C while it is still being loaded ends it without a traceback, too."""
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
    from trainwright.cli.main import main

    main()
