"""Fixtures every test may use; each lives in a plugin of its own."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.contract.released import newest_tag

pytest_plugins = ["tests.kafka_fixture", "tests.mongo_server", "tests.minio_server", "tests.kubernetes_server"]

# Torch's threads wait for one another in loops that take the processor: beside other tests, a training on two of
# them takes many times as long. Set before torch is loaded, for what tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start background jobs with SIGINT ignored, `nohup` does so with SIGHUP, and children inherit it: a test
# that presses Ctrl-C or hangs up would wait.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# On a busy machine an example, or the making of the first ones, may take any time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_report_header(config: pytest.Config) -> str:
    return f"contracts: compared with {newest_tag(config.rootpath) or 'the golden examples: no tag is in reach'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        for item in items:
            if item.get_closest_marker("unmeasured"):
                item.add_marker(pytest.mark.skip(reason="coverage changes what it tests"))
