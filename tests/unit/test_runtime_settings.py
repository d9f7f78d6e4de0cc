"""Where settings come from, what they may say, and how a process ends that cannot use one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from services.scheduler.settings import SchedulerSettings
from services.trainer_worker.settings import WorkerSettings
from trainwright.runtime import engines
from trainwright.runtime.environment import EnvironmentSettings, Unfit
from trainwright.runtime.settings import RuntimeSettings

ROOT = Path(__file__).resolve().parents[2]
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


def numbers(schema: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a JSON schema says of every number, wherever it stands."""
    for name, inner in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if isinstance(inner, dict | list):
            yield from numbers(inner, f"{where}.{name}")
    if isinstance(schema, dict) and schema.get("type") in ("integer", "number"):
        yield where, schema


def test_every_number_has_bounds() -> None:
    for path in ROOT.glob("services/*/settings.py"):
        import_module(f"services.{path.parent.name}.settings")
    classes = EnvironmentSettings.__subclasses__()
    assert len(classes) >= 8
    found = {
        f"{each.__name__}{where}": bounds
        for each in classes
        for where, bounds in numbers(each.model_json_schema(mode="serialization"))
    }
    assert len(found) > 60
    assert [
        name
        for name, bounds in found.items()
        if bounds.get("minimum", bounds.get("exclusiveMinimum", -1)) < 0 or "maximum" not in bounds
    ] == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "high", "TRAINWRIGHT_PORT is 'high': Input should be a valid integer"),
        ("PORT", "65536", "TRAINWRIGHT_PORT is '65536': Input should be less than or equal to 65535"),
        ("LEASE_SECONDS", "nan", "TRAINWRIGHT_LEASE_SECONDS is 'nan': Input should be a finite number"),
        ("KAFKA", "a:9092,b:99999", "TRAINWRIGHT_KAFKA: 'b:99999' is no server, such as 127.0.0.1:9092"),
        ("KAFKA", "http://a:9092", "TRAINWRIGHT_KAFKA: 'http://a:9092' is no server"),
        ("STORE", "tape:1", "TRAINWRIGHT_STORE: 'tape:1' is neither `sqlite:<folder>` nor `mongodb://…`"),
        ("DATABASE", "a.b", "TRAINWRIGHT_DATABASE is 'a.b': String should match pattern"),
        ("BLOBS", "dir:", "TRAINWRIGHT_BLOBS: 'dir:' is neither `dir:<folder>` nor `s3:<bucket>`"),
        ("BLOBS", "s3:", "TRAINWRIGHT_BLOBS: 's3:' is not s3:<bucket>"),
        ("S3_REGION", "eu central", "TRAINWRIGHT_S3_REGION is 'eu central': String should match pattern"),
        ("TASK_URL", "http://a:1, b:2", "TRAINWRIGHT_TASK_URL: ' b:2' is no address"),
        ("TASK_URL", "http://a:99999", "TRAINWRIGHT_TASK_URL: 'http://a:99999' is no address"),
    ],
)
def test_what_a_setting_may_say(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"TRAINWRIGHT_{name}", value)
    with pytest.raises(Unfit) as refused:
        RuntimeSettings()
    assert str(refused.value).startswith(said)


def test_what_is_refused_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [
        ("TRAINWRIGHT_STORE", "mongo://me:hush@a"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://u:hush@a"),
    ]:
        monkeypatch.setenv(name, value)
        with pytest.raises(Unfit, match=f"^{name}: 'a' is n") as refused:
            RuntimeSettings()
        assert "hush" not in str(refused.value)
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("program", "name", "value", "said"),
    [
        ("services", "GATEWAY_WEBHOOKS_ALLOW", "here", "trainwright: GATEWAY_WEBHOOKS_ALLOW: "),
        (
            "services.scheduler",
            "SCHEDULER_LEASE",
            "-1",
            "trainwright: SCHEDULER_LEASE is '-1': Input should be greater than 0",
        ),
        # An address of nobody's (RFC 5737): as when another program listens there.
        ("services.log", "TRAINWRIGHT_HOST", "192.0.2.1", "trainwright: cannot listen at 192.0.2.1:"),
        (
            "services.task",
            "TRAINWRIGHT_SECRETS",
            "/none",
            "trainwright: TRAINWRIGHT_SECRETS is /none, and there is",
        ),
        (
            "services.result",
            "TRAINWRIGHT_BLOBS",
            "s3:Models",
            "trainwright: TRAINWRIGHT_BLOBS: 's3:Models' is not s3:<bucket>: a bucket is called by 3 to 63",
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
    done = subprocess.run(
        [sys.executable, "-m", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), name: value},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr.splitlines()[-1][: len(said)]) == (1, said)
    assert "Traceback" not in done.stderr
