"""Fixtures every test may use; each lives in a plugin of its own."""

import signal

pytest_plugins = ["tests.kafka_fixture"]

# Shells start background jobs with SIGINT ignored, and children inherit it: a test that presses Ctrl-C would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)
