"""How a process writes what it logs: lines on stderr. Not here: what runs write, which the log service has."""

import logging
import sys


def begin() -> None:
    """Have this process log to stderr; a client that finds no broker says so in its caller's words alone."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters it raises; the rest is every retry
