"""Fixtures every test may use; each lives in a plugin of its own."""

import signal

pytest_plugins = ["tests.kafka_fixture"]

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that press Ctrl-C would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)
