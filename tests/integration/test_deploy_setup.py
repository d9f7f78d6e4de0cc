"""What makes the stores ready once: it may run again, says what it waits for, and goes on when that comes.

The bucket's part is tested with the Compose file, in test_compose_environment.py.
"""

import logging
import subprocess
import sys

import pytest

from deploy import setup
from tests.house.house import ROOT
from tests.mongo_server import MongoServer
from trainwright.embedded.archive import free_ports


def test_mongodb_is_made_ready_as_often_as_it_is_asked(mongo: MongoServer) -> None:
    if mongo.isolates:
        pytest.skip("a user is not made on somebody's server")  # and the stand-in knows none: it takes every word
    store = mongo.url.replace("//", "//trainwright:word@") + "/?replicaSet=trainwright&authSource=admin"
    for _ in range(2):
        setup.prepare_mongodb(store, "", "")


def test_a_step_is_taken_until_it_works_and_each_reason_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        ConnectionRefusedError("nobody there"),
        ConnectionRefusedError("nobody there"),
        setup.NotYet("soon"),
    ]

    def step() -> None:
        if answers:
            raise answers.pop(0)

    monkeypatch.setattr(setup, "AGAIN_SECONDS", 0)
    caplog.set_level(logging.INFO)
    setup.until_done("MongoDB", step)
    said = ["MongoDB: waiting: nobody there", "MongoDB: waiting: soon", "MongoDB: done"]
    assert [record.message for record in caplog.records] == said


def test_it_says_which_part_is_missing() -> None:
    (port,) = free_ports(1)
    environment = {
        "TRAINWRIGHT_STORE": f"mongodb://trainwright:word@127.0.0.1:{port}/?replicaSet=trainwright",
        "SETUP_MONGODB_ROOT_PASSWORD": "one",
        "SETUP_MINIO_ROOT_PASSWORD": "two",
        "SETUP_WORKER_SECRET_KEY": "three",
    }
    command = [sys.executable, str(ROOT / "deploy" / "setup.py")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        line = started.stderr.readline()
        started.kill()
    assert f"MongoDB: waiting: 127.0.0.1:{port}: [Errno" in line
    assert "one" not in line.replace("None", "").replace("done", "")
