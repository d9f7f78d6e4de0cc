"""How a command ends that is interrupted, or whose platform or files fail it: a sentence, and the right exit code.

The platform is an HTTP server of this process that says little: enough to be watched. Ctrl-C is pressed by it.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from typer.testing import CliRunner

from trainwright.cli import demo, events, outcome
from trainwright.cli.console import CommandError
from trainwright.cli.main import app, main
from trainwright.cli.observe import save_report
from trainwright.cli.watch import Quiet, watch
from trainwright.client import Client, Unreachable
from trainwright.contracts.log import LogPage
from trainwright.contracts.result import ModelPage, ModelVersion
from trainwright.contracts.task import StoredFile, TaskView, TransitionAnswer
from trainwright.embedded.home import Home

TASK = "task-3f9c1a7be042"


def example(contract: Any) -> dict[str, Any]:
    """Return a contract's own example."""
    found: dict[str, Any] = contract.model_json_schema()["examples"][0]
    return {**found, "task_id": TASK}


class Platform(BaseHTTPRequestHandler):
    """Knows one task that runs; ``at`` names the request at which Ctrl-C is pressed, or the connection broken."""

    at: tuple[str, str] = ("", "")
    breaks: int | None = None
    """How often the connection is broken there; None: Ctrl-C, once."""
    asked: list[str] = []

    def _answer(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/v1/training")
        self.asked.append(f"{self.command} {path}")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (self.command, path) == self.at and Platform.breaks is None:
            Platform.breaks = 0
            os.kill(os.getpid(), signal.SIGINT)
        elif (self.command, path) == self.at and Platform.breaks:
            Platform.breaks -= 1
            self.close_connection = True
            return
        running = {**example(TaskView), "status": "running", "phase": "training"}
        answers: dict[tuple[str, str], dict[str, Any]] = {
            ("GET", f"/tasks/{TASK}"): running if self.at[0] else {**running, "status": "completed"},
            ("GET", f"/tasks/{TASK}/logs"): {**example(LogPage), "entries": []},
            ("POST", f"/tasks/{TASK}/cancel"): {**example(TransitionAnswer), "phase": "stopping"},
            ("POST", "/tasks"): running,
            ("POST", "/files"): {**example(StoredFile), "task_id": None},
            ("GET", "/models"): {**example(ModelPage), "models": [{**example(ModelVersion), "report": None}]},
            ("GET", "/tasks"): {"tasks": [], "total": 0, "page": 1, "page_size": 20},
        }
        body = json.dumps(answers.get((self.command, path), {})).encode()
        if path == "/events":
            body = b'id: 7\nevent: event\ndata: {"type": "TaskReady"}\n\n'
        with contextlib.suppress(ConnectionError):  # who was interrupted does not wait for it
            self.send_response(404 if self.command == "HEAD" else 200)  # no file is stored yet
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_POST = do_HEAD = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Platform.at, Platform.breaks, Platform.asked = ("", ""), None, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Platform) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("TRAINWRIGHT_URL", found)
        monkeypatch.setenv("TRAINWRIGHT_API_KEY", "tw-key")
        yield found
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("command", "at", "said"),
    [
        (["logs", TASK, "-f"], ("GET", f"/tasks/{TASK}/logs"), f"trainwright task cancel {TASK}"),
        (["task", "cancel", TASK, "--wait"], ("GET", f"/tasks/{TASK}"), "Stopped waiting"),
        (["run", "script.py"], ("GET", f"/tasks/{TASK}"), f"trainwright task cancel {TASK}"),
        (["submit", "task.yaml", "--watch"], ("GET", f"/tasks/{TASK}"), f"trainwright task cancel {TASK}"),
        (["events", "follow"], ("GET", "/events"), ""),
        (["task", "list"], ("GET", "/tasks"), ""),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_ctrl_c_ends_what_follows_a_task_with_130_and_leaves_the_task_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], at: tuple[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text("print(1)\n")
    Path("task.yaml").write_text("recipe: script\nparameters: {path: script.py}\n")
    Platform.at = at
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, said in done.output) == (130, True), done.output
    assert [one for one in Platform.asked if one.startswith("POST") and one.endswith("/cancel")] == (
        [f"POST /tasks/{TASK}/cancel"] if "cancel" in command else []
    )


@pytest.mark.parametrize("words", [["--help"], ["task", "list"], ["events", "follow", "--json"]], ids="-".join)
def test_a_reader_that_has_gone_ends_a_command_without_a_word(url: str, words: list[str]) -> None:
    """With what a shell says of any command that wrote into a closed pipe, such as `cat` before `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "trainwright.cli.main", *words]
    with os.fdopen(writer) as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ([], ["--version", "--help"]),
        (["task", "list"], ["--archived", "--json", "--help"]),
        (["events", "tail"], ["--from-beginning", "--json"]),
    ],
    ids=["all", "task-list", "events-tail"],
)
def test_help_shows_a_flag_as_what_is_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], flags: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["trainwright", *words, "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = capsys.readouterr().out
    assert [flag for flag in flags if f" {flag} " not in shown] == []
    assert "<bool>" not in shown
    assert "--no-" not in shown


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["task", "list", "--url"], 2, "--url needs a value"),
        (["task", "set", TASK], 2, "name what is to be different: --priority, --name, --label or --after"),
        (
            ["task", "resources", TASK],
            2,
            "name what is to be different: --gpu, --cpu, --memory, --gpu-memory or --workers",
        ),
        (["task", "list", "--label", "a=\udcff"], 1, "'\\udcff' in what was given is no UTF-8"),
        (
            ["task", "list", "--url", "here", "--key", "k"],
            1,
            "'here' (from the --url given) is no address like http://host:port; name another address with --url",
        ),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_what_was_given_cannot_be_used(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr("trainwright.cli.session._given", {})
    monkeypatch.setattr(sys, "argv", ["trainwright", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (code, f"trainwright: {said}\n")


def test_a_reservation_for_nobody_is_wrong_usage() -> None:
    done = CliRunner().invoke(
        app, ["resource", "reserve", "--for", "10m"], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    assert done.exit_code == 2
    assert "--strategy or --task: say for whom it is kept" in done.output


def test_ctrl_c_in_the_demo_cancels_its_task(url: str, tmp_path: Path) -> None:
    """Or it would run again with the next demo."""
    Platform.at = ("GET", f"/tasks/{TASK}")
    (tmp_path / "task.yaml").write_text("recipe: script\nparameters: {path: a.py}\n")
    (tmp_path / "a.py").write_text("print(1)\n")
    with Client(url, "k") as client, pytest.raises(KeyboardInterrupt):
        demo._train(client, tmp_path / "task.yaml", tmp_path)
    assert Platform.asked[-1] == f"POST /tasks/{TASK}/cancel"


def test_ctrl_c_while_kafka_is_waited_for_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TRAINWRIGHT_KAFKA", f"127.0.0.1:{silent.getsockname()[1]}")

        def press() -> None:
            with silent.accept()[0] as client:
                client.recv(1)  # it asks, and is told nothing
                os.kill(os.getpid(), signal.SIGINT)
                client.recv(1 << 16)

        threading.Thread(target=press, daemon=True).start()
        assert CliRunner().invoke(app, ["events", "tail"]).exit_code == 130


def test_a_kafka_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINWRIGHT_KAFKA", "127.0.0.1:9")
    done = CliRunner().invoke(app, ["events", "tail"])
    assert isinstance(done.exception, CommandError)
    assert str(done.exception).startswith("Kafka does not answer at 127.0.0.1:9")


def test_a_record_that_is_no_json_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    record = ConsumerRecord("trainwright.task.v1", 0, 7, 0, 0, b"key", b"no \xff json", None, 3, 10, ())
    events._show(record, as_json=True)
    assert json.loads(capsys.readouterr().out)["data_text"] == "no \ufffd json"


def test_a_file_that_is_not_stored_yet_is_sent(url: str) -> None:
    with Client(url, "k") as client:
        client.upload(b"print(1)")
    assert [one.partition(" ")[0] for one in Platform.asked] == ["HEAD", "POST"]


def test_a_home_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    Home(tmp_path).lock_file.mkdir()
    done = CliRunner().invoke(app, ["down", "--home", str(tmp_path)])
    assert isinstance(done.exception, CommandError)
    assert str(done.exception) == f"The home {tmp_path} cannot be used: is a directory"


def test_a_watch_goes_on_over_a_platform_that_is_away_for_a_moment(url: str) -> None:
    silences: list[float] = []

    class View(Quiet):
        def silent(self, seconds: float) -> None:
            silences.append(seconds)

    Platform.at, Platform.breaks = ("GET", f"/tasks/{TASK}"), 2
    with Client(url, "k") as client:
        found = watch(client, TASK, View(), until=lambda task: task.status == "running")
    assert (found.task_id, len(silences)) == (TASK, 2)


def test_an_answer_that_breaks_off_says_what_was_asked(url: str) -> None:
    Platform.at, Platform.breaks = ("GET", f"/tasks/{TASK}"), 1
    with Client(url, "k") as client, pytest.raises(Unreachable, match=f"did not answer GET /tasks/{TASK}: "):
        client.task(TASK)


def test_a_stream_of_events_that_breaks_off_is_gone_on_with_and_one_that_never_began_is_told(url: str) -> None:
    Platform.at, Platform.breaks = ("GET", "/events"), 0
    with Client(url, "k") as client:
        following = client.events()
        assert next(following).position == "7"
        Platform.breaks = 1
        assert next(following).position == "7"
        assert Platform.asked == ["GET /events"] * 3
        Platform.breaks = 1
        with pytest.raises(Unreachable, match=r"the stream of events from .* ended: "):
            next(client.events())


def test_what_is_no_address_is_told_with_its_source() -> None:
    with (
        Client("ftp://here", "k") as client,
        pytest.raises(Unreachable, match="is no address like http://host:port"),
    ):
        client.tasks()


def test_who_shows_no_report_does_not_wait_for_it(url: str) -> None:
    with Client() as client:
        model = outcome.model_of(client, TASK, rendered=False)
        assert model is not None
        assert model.report is None
        assert Platform.asked == ["GET /models"]


def test_a_report_that_cannot_be_saved_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot save the report: .*Is a directory.*--output"):
        save_report(b"<html>", tmp_path)


def test_a_demo_without_a_home_or_its_usual_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CommandError, match=r"the demo's home .* cannot be used"),
        demo._platform(tmp_path / "file/demo"),
    ):
        pass
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", demo.PORT))
            taken.listen()
        except OSError:
            pass  # another program has it
        assert demo._free_port() != demo.PORT
