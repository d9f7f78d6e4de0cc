"""The Compose file without its engine: every process with the command, environment and secrets that it gives.

Only addresses and folders become local ones. Kafka is set up by the image's own program from the file's variables;
who is healthy is asked as the file asks; blobs are in MinIO where there is one, prepared as `setup` does.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import pytest
from minio.error import S3Error

from deploy.setup import prepare_bucket, until_done
from tests.house import compose
from tests.house.dockerfile import instructions
from tests.house.house import ROOT
from tests.minio_server import MinioServer
from tests.mongo_server import MongoServer
from tests.patience import patient
from trainwright.embedded import process
from trainwright.embedded.archive import free_ports
from trainwright.embedded.distribution import ensure
from trainwright.storage.s3 import s3_client

T = TypeVar("T")

SERVICES = ("task", "scheduler", "monitor", "result", "log")
OURS = (*SERVICES, "gateway", "worker")

SCRIPT = """
import trainwright

run = trainwright.init()
for step in run.steps(5, checkpoint_every=5, state={}):
    run.log(step, {"loss": 1 / step})
(run.output / "answer.txt").write_text("42")
"""


class Stack:
    """The Compose file at home on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Any] = compose.merged([compose.BASE], {})["services"]
        self.ports = dict(zip(OURS, free_ports(len(OURS)), strict=True))
        self.local = {f"http://{name}:8700": f"http://127.0.0.1:{self.ports[name]}" for name in SERVICES}
        """What stands here for the addresses that the file names; and for secrets, by their names."""
        make = ["sh", str(ROOT / "deploy" / "secrets.sh"), str(folder / "made")]
        subprocess.run(make, check=True, capture_output=True)

    def secret(self, name: str) -> str:
        """Return what the script made."""
        return (self.folder / "made" / name).read_text()

    def environment(self, name: str) -> dict[str, str]:
        """Return all that a process is given."""
        home, secrets = self.folder / name, self.folder / name / "secrets"
        if not home.exists():
            (home / "data" / "tmp").mkdir(parents=True)
            secrets.mkdir()
            for secret in self.services[name]["secrets"]:
                source = secret["source"] if isinstance(secret, dict) else secret
                target = secret["target"] if isinstance(secret, dict) else secret
                (secrets / target).write_text(self.local.get(source) or self.secret(source))
        places = {"/run/secrets": str(secrets), "/var/lib/trainwright": f"{home}/data", "0.0.0.0": "127.0.0.1"}
        found = localised(self.services[name]["environment"], {**places, **self.local})
        port = {key: str(self.ports[name]) for key in found if key.endswith("_PORT")}
        return {**found, **port, "HOME": str(home), "PATH": os.environ["PATH"]}

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Run a process of ours until the end of the block."""
        command = self.services[name].get("command") or json.loads(dict(instructions(name))["CMD"])
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {**self.environment(name), **database(self.folder)}
            words = [sys.executable, *command[1:]]
            with subprocess.Popen(
                words, env=environment, cwd=self.folder / name, stdout=log, stderr=log
            ) as started:
                try:
                    yield
                finally:
                    started.terminate()

    def is_healthy(self, name: str) -> bool:
        """Ask as the engine would."""
        _, program, *words = self.services[name]["healthcheck"]["test"]
        assert program == "healthy"
        command = [sys.executable, ROOT / "deploy" / "healthy.py", *words]
        environment = {**os.environ, "TRAINWRIGHT_PORT": str(self.ports[name])}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def localised(values: Mapping[str, str], local: Mapping[str, str]) -> dict[str, str]:
    """Return values with what they name replaced."""
    found = dict(values)
    for there, here in local.items():
        found = {name: value.replace(there, here) for name, value in found.items()}
    return found


def database(folder: Path) -> dict[str, str]:
    """Return the one thing that the file does not say: the server is shared with other tests."""
    return {"TRAINWRIGHT_DATABASE": f"test_{abs(hash(folder)):x}"[:16]}


@contextmanager
def kafka_of(stack: Stack, folder: Path) -> Iterator[str]:
    """Run Kafka as its container would, set up from the file's variables by the image's program."""
    port, controller = free_ports(2)
    service = stack.services["kafka"]
    names = {"kafka:": "127.0.0.1:", "0.0.0.0": "127.0.0.1", "/var/lib/kafka/data": str(folder / "data")}
    names |= {":9092": f":{port}", ":9093": f":{controller}"}
    identity = service["command"][2].partition("exec ")[0] + 'printf %s "$CLUSTER_ID"'
    known = subprocess.run(["bash", "-c", identity], capture_output=True, text=True, check=True).stdout
    distribution = ensure()
    java = [str(distribution.java), "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]
    java += [distribution.classpath]
    places = [word for kind in ("default", "mounted", "final") for word in (f"--{kind}-configs-dir", str(folder))]
    environment = {**localised(service["environment"], names), "CLUSTER_ID": known, "PATH": os.environ["PATH"]}
    setup = [*java, "kafka.docker.KafkaDockerWrapper", "setup", *places]
    done = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    started = process.spawn([*java, "kafka.Kafka", "server.properties"], log=folder / "kafka.log", folder=folder)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.stop(started, 10)


def kafka_is_healthy(stack: Stack, bootstrap: str) -> bool:
    """Ask Kafka as the engine would."""
    _, *words = stack.services["kafka"]["healthcheck"]["test"]
    words[-1] = words[-1].replace("/9092", "/" + bootstrap.rpartition(":")[2])
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def use_blobs(stack: Stack, minio: MinioServer | None) -> None:
    """Have blobs in a bucket of their own, which the two users may use and nobody else; else in a folder."""
    if minio is None:
        stack.local["s3:trainwright"] = f"dir:{stack.folder}/blobs"
        return
    bucket = f"test-{uuid4().hex[:12]}"
    users = {"trainwright": stack.secret("s3_secret_key"), "worker": stack.secret("worker_s3_secret_key")}
    root = minio.access_key, minio.secret_key
    for _ in range(2):  # it may run again at any time
        until_done("bucket", lambda: prepare_bucket(minio.endpoint, bucket, users, *root, "us-east-1"))
    with pytest.raises(S3Error, match="Access Denied"):
        s3_client(minio.endpoint, "worker", users["worker"], "us-east-1").make_bucket(f"{bucket}-2")
    stack.local |= {"s3:trainwright": f"s3:{bucket}", "http://minio:9000": minio.endpoint}


def the_minio(request: pytest.FixtureRequest) -> MinioServer | None:
    """Return the MinIO of the tests, if there is one."""
    try:
        found = request.getfixturevalue("minio")
    except pytest.skip.Exception:
        return None
    assert isinstance(found, MinioServer)
    return found


def until(check: Callable[[], T], what: str, *, within: float = 90) -> T:
    """Wait until a check gives something true, and return that."""
    deadline = patient(within)
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(0.3)
    return found


def run_script(url: str, key: str, folder: Path) -> None:
    """Run a script as a person would."""
    (folder / "script.py").write_text(SCRIPT)
    environment = {"TRAINWRIGHT_URL": url, "TRAINWRIGHT_API_KEY": key, "PATH": os.environ["PATH"]}
    command = [str(Path(sys.executable).parent / "trainwright"), "run", "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_task_runs_with_what_the_compose_file_gives(
    mongo: MongoServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stack = Stack(tmp_path)
    stack.local["store"] = mongo.url
    use_blobs(stack, the_minio(request))
    (tmp_path / "kafka").mkdir()
    with ExitStack() as everything:
        bootstrap = everything.enter_context(kafka_of(stack, tmp_path / "kafka"))
        stack.local["kafka:9092"] = bootstrap
        assert not stack.is_healthy("gateway"), "nobody is there"
        until(lambda: kafka_is_healthy(stack, bootstrap), "Kafka")
        for name in OURS:
            everything.enter_context(stack.running(name))
        for name in OURS:
            until(partial(stack.is_healthy, name), f"{name}; see its log in {tmp_path}")
        for name, port in stack.ports.items():
            figures = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30)
            assert "trainwright_kafka_up" in figures.text, (
                f"{name} shows no figures where Prometheus looks for them"
            )
        url, key = f"http://127.0.0.1:{stack.ports['gateway']}", stack.secret("api_key")
        run_script(url, key, tmp_path)
        bearer = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"{url}/api/v1/training", headers=bearer, timeout=90) as api:
            (model,) = until(lambda: api.get("/models").json()["models"], "a model version")
            assert api.get(f"/models/{model['model_id']}/files/answer.txt").text == "42"
            assert api.get("/dead").json()["dead_letters"] == []
            theirs = {"recipe": "script", "parameters": {"path": "/run/secrets/TRAINWRIGHT_STORE"}}
            refused = api.post("/tasks", json={"config": theirs})
            assert refused.status_code == 422, "a path of the container is nobody's"
