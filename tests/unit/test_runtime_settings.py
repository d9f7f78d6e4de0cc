"""Where settings come from, and how a process ends that cannot use one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.scheduler.settings import SchedulerSettings
from services.trainer_worker.settings import WorkerSettings
from trainwright.runtime import engines
from trainwright.runtime.settings import RuntimeSettings

FILE = """
# every kind of process reads it
TRAINWRIGHT_KAFKA=kafka:9092
TRAINWRIGHT_PORT=9000
SCHEDULER_LEASE=20
TRAINWRIGHT_WORKER_CPUS=3
"""


def test_a_file_says_what_the_environment_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINWRIGHT_PORT", "9001")
    settings = RuntimeSettings()
    assert (settings.kafka, settings.port) == ("kafka:9092", 9001)
    assert SchedulerSettings().lease == 20
    assert WorkerSettings().cpus == 3


def test_the_file_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "platform.env").write_text(FILE)
    monkeypatch.setenv("TRAINWRIGHT_ENV_FILE", str(tmp_path / "platform.env"))
    assert RuntimeSettings().kafka == "kafka:9092"


def test_a_part_is_named_without_its_password() -> None:
    settings = RuntimeSettings(
        store="mongodb://user:secret-1@mongo:27017/?replicaSet=rs",
        blobs="s3:models",
        s3_url="http://minio:9000",
        s3_secret_key="secret-2",
    )
    said = engines.store_in_words(settings) + engines.blobs_in_words(settings)
    assert "secret" not in said.lower().replace("_secret_key", "")
    assert all(word in said for word in ("mongo:27017", "TRAINWRIGHT_STORE", "minio:9000", "models"))
    assert "TRAINWRIGHT_S3_SECRET_KEY" in said


@pytest.mark.parametrize(
    ("program", "name", "value", "said"),
    [
        ("services", "TRAINWRIGHT_PORT", "high", "trainwright: TRAINWRIGHT_PORT: Input should be a valid integer"),
        ("services", "GATEWAY_WEBHOOKS_ALLOW", "here", "trainwright: GATEWAY_WEBHOOKS_ALLOW: "),
        ("services.scheduler", "SCHEDULER_LEASE", "long", "trainwright: SCHEDULER_LEASE: Input should be a valid"),
        ("services.log", "TRAINWRIGHT_STORE", "tape:1", "trainwright: 'tape:1' is not `sqlite:<folder>`"),
        (
            "services.task",
            "TRAINWRIGHT_SECRETS",
            "/none",
            "trainwright: TRAINWRIGHT_SECRETS is /none, and there is",
        ),
        (
            "services.result",
            "TRAINWRIGHT_BLOBS",
            "s3:",
            "trainwright: TRAINWRIGHT_BLOBS is 's3:' without a bucket",
        ),
        (
            "services.trainer_worker",
            "TRAINWRIGHT_WORKER_PORTS",
            "9-1",
            "trainwright worker: TRAINWRIGHT_WORKER_PORTS",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_ends_a_program_with_one_line(
    tmp_path: Path, program: str, name: str, value: str, said: str
) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), name: value},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr.splitlines()[0][: len(said)]) == (1, said)
    assert "Traceback" not in done.stderr
