"""The provisioner beside a platform that is away, refuses or talks nonsense: it says so, and does nothing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.provisioner import figures
from services.provisioner.domain import IDLE
from services.provisioner.looking import PREFIX, Platform, Unknown
from services.provisioner.machines import MachineError
from services.provisioner.machines.kubernetes import KubernetesMachines
from services.provisioner.machines.local import LocalMachines
from services.provisioner.machines.pods import Template
from services.provisioner.provisioning import Provisioner, keep_file
from services.provisioner.routes import build_app
from services.provisioner.settings import ProvisionerSettings, WorkerClass
from tests.runtime_kit import FastClock
from trainwright.embedded.home import Home
from trainwright.embedded.roster import Roster
from trainwright.runtime.telemetry.edge import Observed
from trainwright.runtime.telemetry.scraping import Scrape

NOBODY = "http://127.0.0.1:9"
WORKERS: dict[str, Any] = {"workers": []}
WISH = {"gpu": 0, "cpu": 1, "memory": 0, "gpu_memory": 0, "count": 2, "waited_seconds": 60, "reason": "busy"}


class Answers:
    """A server that answers what it was told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[int, bytes]] = {}
        self.asked: list[tuple[str, str, bytes]] = []
        self.url = ""

    def says(self, path: str, answer: object, status: int = 200) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.by_path[path] = status, body

    def platform(self, *, waiting: int = 0) -> None:
        self.says(f"{PREFIX}/workers", WORKERS)
        self.says(f"{PREFIX}/resources/demand", {"waiting": waiting, "demand": [WISH] if waiting else []})


@pytest.fixture
def answers() -> Iterator[Answers]:
    found = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            found.asked.append((self.command, self.path, body))
            status, answer = found.by_path.get(self.path.partition("?")[0], (404, b"{}"))
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def settings(**fields: Any) -> ProvisionerSettings:
    return ProvisionerSettings.model_validate({"api_key": "key", **fields})


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, {"detail": "no such key"}, "answers GET /workers with 401: no such key"),
        (502, b"<html>bad gateway</html>", "with 502: <html>bad gateway</html>"),
        (500, ["no", "detail"], 'with 500: ["no", "detail"]'),
        (200, {"workers": 7}, "with something else"),
        (200, b"<html>welcome</html>", "with something else"),
    ],
)
async def test_an_answer_that_does_not_help_is_said_in_its_words(
    answers: Answers, status: int, answer: object, said: str
) -> None:
    answers.says(f"{PREFIX}/workers", answer, status)
    platform = Platform(settings(url=answers.url))
    with pytest.raises(Unknown) as unknown:
        await platform.look()
    assert said in str(unknown.value)
    await platform.close()


async def test_a_platform_that_is_away_and_a_key_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"url": NOBODY}, f"the platform at {NOBODY} does not answer"),
        ({"url": NOBODY, "api_key_file": tmp_path / "none"}, "the API key cannot be read"),
    ]
    for wrong, said in cases:
        platform = Platform(settings(**wrong))
        with pytest.raises(Unknown) as unknown:
            await platform.look()
        assert said in str(unknown.value)
        await platform.close()


async def test_a_worker_is_drained_with_the_reason_by_which_it_is_known_again(answers: Answers) -> None:
    for wish in ("drain", "undrain"):
        answers.says(f"{PREFIX}/workers/w/{wish}", {})
    platform = Platform(settings(url=answers.url + "/"))
    await platform.drain("w")
    await platform.undrain("w")
    assert [(method, path) for method, path, _ in answers.asked] == [
        ("POST", f"{PREFIX}/workers/w/drain"),
        ("POST", f"{PREFIX}/workers/w/undrain"),
    ]
    assert json.loads(answers.asked[0][2]) == {"reason": IDLE}
    answers.says(f"{PREFIX}/workers/w/drain", {"detail": "there is no worker 'w'"}, 404)
    with pytest.raises(Unknown, match="there is no worker"):
        await platform.drain("w")
    await platform.close()


async def seen(provisioner: Provisioner) -> tuple[dict[str, Any], Mapping[str, float]]:
    """Return what `/state` and `/metrics` show of the provisioner."""
    scrape = Scrape()
    figures.show(scrape, provisioner)
    app = Observed(build_app(provisioner), "provisioner", scrape, continues=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://provisioner") as client:
        assert (await client.get("/health/live")).json() == {"status": "ok"}
        ready, state = (await client.get("/health/ready")).json(), (await client.get("/state")).json()
        lines = (await client.get("/metrics")).text.splitlines()
    assert (ready["status"] == "ok") == state["ok"]
    assert ready["notes"] == state["notes"]
    shown = dict(line.rsplit(" ", 1) for line in lines if line.startswith("trainwright_machines"))
    return state, {name.removeprefix("trainwright_machines"): float(value) for name, value in shown.items()}


async def test_what_is_seen_wanted_and_refused_is_shown(answers: Answers, tmp_path: Path) -> None:
    answers.platform(waiting=2)
    home = Home(tmp_path / "home")
    home.create()
    two = [WorkerClass(name="worker", cpu=1, memory=2**30, max=2)]
    machines = LocalMachines(home.path, "worker", 1)  # there is less than the class promises
    chosen = settings(url=answers.url, classes=two, home=home.path)
    platform = Platform(chosen)
    provisioner = Provisioner(chosen, platform, machines, FastClock())
    state, before = await seen(provisioner)
    assert (state["ok"], state["notes"]) == (False, ["it has not looked yet"])

    await provisioner.step()
    assert Roster(home).read() == {"worker-1"}
    state, now = await seen(provisioner)
    assert (state["ok"], state["waiting"], state["machines"]) == (False, 2, {})
    assert any("worker-2 of class worker is no worker of this machine" in note for note in state["notes"])
    assert now["_wanted"] == 2
    assert now['_refused_total{action="start"}'] == before['_refused_total{action="start"}'] + 1
    await provisioner.step()
    state, now = await seen(provisioner)
    assert state["machines"] == {"worker-1": "starting"}
    assert (now['{state="starting"}'], now['{state="running"}']) == (1, 0)

    answers.says(f"{PREFIX}/workers", {"detail": "not now"}, 503)
    await provisioner.step()
    state, now = await seen(provisioner)
    assert state["ok"] is False
    (note,) = state["notes"]
    assert "503: not now; nothing is started or ended meanwhile" in note
    assert now['_refused_total{action="look"}'] == before['_refused_total{action="look"}'] + 1
    assert Roster(home).read() == {"worker-1"}
    (home.path / "roster.json").write_text("[")
    await provisioner.step()
    assert "is damaged" in (await seen(provisioner))[0]["notes"][0]
    await platform.close()


async def test_a_home_that_cannot_be_written_does_not_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Enough(Exception):
        pass

    chosen = settings(home=tmp_path / "gone", classes=[{"name": "worker", "cpu": 1, "memory": 1}])
    platform = Platform(chosen)
    provisioner = Provisioner(chosen, platform, LocalMachines(tmp_path, "worker", 1), FastClock())
    rounds: list[float] = []

    async def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 1:
            assert "cannot write" in caplog.text
            chosen.home.mkdir()
        else:
            raise Enough

    with pytest.raises(Enough):
        await keep_file(provisioner, chosen, sleep)
    assert json.loads((chosen.home / "provisioner.json").read_text())["ok"] is False
    await platform.close()


def kubernetes(folder: Path, server: str) -> KubernetesMachines:
    for name in ("token", "namespace"):
        (folder / name).write_text("x")
    template = Template({"spec": {"containers": [{"name": "worker"}]}})
    return KubernetesMachines(server, folder, template, [WorkerClass(name="cpu", cpu=1, memory=1)])


async def test_what_is_no_kubernetes_is_said_and_does_not_end_the_provisioner(
    answers: Answers, tmp_path: Path
) -> None:
    machines, pods = kubernetes(tmp_path, answers.url), "/api/v1/namespaces/x/pods"
    for status, answer, said in [
        (403, b"<html>no</html>", r"\(403\): <html>no</html>"),
        (403, {"message": "pods is forbidden"}, r"\(403\): pods is forbidden"),
        (200, b"<html>welcome</html>", "with no JSON"),
        (200, {"kind": "Status"}, "lists no pods"),
        (200, ["a"], "lists no pods"),
    ]:
        answers.says(pods, answer, status)
        with pytest.raises(MachineError, match=said):
            await machines.find()
    (tmp_path / "token").unlink()
    with pytest.raises(MachineError, match="token cannot be read"):
        await machines.find()
    await machines.close()
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(MachineError, match=r"ca\.crt cannot be used"):
        kubernetes(tmp_path, answers.url)


@pytest.mark.parametrize("content", [b"spec: [", b"\xff\xfe\x00"])
def test_a_template_that_is_no_yaml_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pod.yaml"
    path.write_bytes(content)
    with pytest.raises(MachineError, match="cannot be read"):
        Template.read(path)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PROVISIONER_CLASSES": "nonsense"}, 'value for field "classes"'),
        ({"PROVISIONER_EVERY": "-1"}, "PROVISIONER_EVERY is '-1': Input should be greater than 0"),
        (
            {"PROVISIONER_CLASSES": '[{"name": "a", "cpu": 1, "memory": "1Gi", "min": 3}]'},
            "PROVISIONER_CLASSES.0: min of class 'a' is 3, more than its max of 1",
        ),
        (
            {"PROVISIONER_CLASSES": json.dumps([{"name": "a", "cpu": 1, "memory": 1}] * 2)},
            "classes have one name twice: a",
        ),
        ({}, "PROVISIONER_CLASSES has 0"),
    ],
)
def test_settings_that_cannot_be_used_end_it_with_one_line(tmp_path: Path, env: dict[str, str], said: str) -> None:
    known = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    done = subprocess.run(
        [sys.executable, "-m", "services.provisioner"],
        env={**known, "PROVISIONER_HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("trainwright provisioner: ")
    assert "Traceback" not in done.stderr
