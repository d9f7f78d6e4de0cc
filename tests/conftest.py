"""Fixtures every test may use; each lives in a plugin of its own."""

pytest_plugins = ["tests.kafka_fixture"]
