"""How a client finds the platform, and what it says when it cannot use what it found."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run

import pytest

from trainwright.client import Client, Refused, Unauthorised, Unreachable, find_connection
from trainwright.contracts.errors import IllegalTransition, InvalidInput, NotFound


def make_home(folder: Path, url: str = "http://127.0.0.1:9", key: str = "tw-home") -> Path:
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"url": url, "ready": True}))
    (folder / "api-key").write_text(key + "\n")
    return folder


def test_what_is_given_wins_over_the_environment_and_that_over_the_home(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    environ = {"TRAINWRIGHT_URL": "http://env:1/", "TRAINWRIGHT_API_KEY": "tw-env", "TRAINWRIGHT_HOME": str(home)}
    given = find_connection("http://given:1", "tw-given", None, environ)
    assert (given.url, given.key) == ("http://given:1", "tw-given")
    from_environment = find_connection(None, None, None, environ)
    assert (from_environment.url, from_environment.key) == ("http://env:1", "tw-env")
    from_home = find_connection(None, None, None, {"TRAINWRIGHT_HOME": str(home)})
    assert (from_home.url, from_home.key) == ("http://127.0.0.1:9", "tw-home")
    assert from_home.key_source == f"{home}/api-key"


def test_the_home_is_looked_for_upward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path / "project" / ".trainwright")
    below = tmp_path / "project" / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_connection(environ={}).home == home


def test_a_half_written_home_is_no_home_yet(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "state.json").write_text('{"url": "http://')
    found = find_connection(home=home, environ={})
    assert (found.url, found.key) == ("http://127.0.0.1:8700", None)


class Answers(BaseHTTPRequestHandler):
    """An HTTP server that answers by path: the errors that a gateway, or a proxy before it, may send."""

    problems = {
        "illegal": (409, {"title": "t", "status": 409, "detail": "is running", "code": "illegal_transition"}),
        "invalid": (
            422,
            {
                "title": "t",
                "status": 422,
                "detail": "does not fit",
                "code": "invalid_input",
                "errors": [{"path": "config.recipe", "message": "unknown"}],
            },
        ),
        "newer": (429, {"title": "t", "status": 429, "detail": "slow down", "code": "too_many_requests"}),
        "key": (401, {"title": "t", "status": 401, "detail": "unknown key", "code": "unauthorised"}),
    }

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        status, problem = self.problems.get(name, (502, None))
        body = json.dumps(problem).encode() if problem else b"<html>bad gateway</html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture(name="url")
def _url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_error_answers_become_the_errors_of_the_tree(url: str) -> None:
    with Client(url, "k") as client:
        with pytest.raises(IllegalTransition, match="is running"):
            client.task("illegal")
        with pytest.raises(InvalidInput) as invalid:
            client.task("invalid")
        assert [(e.path, e.message) for e in invalid.value.errors] == [("config.recipe", "unknown")]
        with pytest.raises(Refused) as unknown:
            client.task("newer")
        assert (unknown.value.status, unknown.value.code) == (429, "too_many_requests")
        with pytest.raises(Refused, match="was answered 502: <html>bad gateway") as no_problem:
            client.task("proxy")
        assert no_problem.value.status == 502


def test_a_refused_key_is_told_with_its_source(url: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", url)
    with Client(home=home) as client, pytest.raises(Unauthorised, match=f"refused the key from {home}/api-key"):
        client.task("key")


def test_silence_is_told_with_the_address_and_the_next_step(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", "http://127.0.0.1:9")
    with Client(home=home) as client, pytest.raises(Unreachable, match="nothing answers at http://127"):
        client.tasks()
    command = [sys.executable, "-m", "trainwright.cli.main", "--home", str(home), "task", "list"]
    result = run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"start it with `trainwright up --home {home}`" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["", "..", "."])
def test_what_is_no_id_is_not_asked_for(name: str) -> None:
    with Client("http://127.0.0.1:9", "tw-key") as client, pytest.raises(NotFound, match="nothing has the id"):
        client.task(name)


def test_an_id_is_one_segment_of_the_path_whatever_is_in_it() -> None:
    with Client("http://127.0.0.1:9", "tw-key") as client:
        assert client.report_url("../a?b#c/\udcff").endswith("/tasks/..%2Fa%3Fb%23c%2F%3F/report")


@pytest.mark.parametrize("key", ["caf\u00e9", "\udcff", "two\nlines"])
def test_a_key_that_no_header_can_carry_is_named_by_its_source(key: str) -> None:
    with pytest.raises(Unauthorised, match="the key from the --key given has characters that no key has"):
        Client("http://127.0.0.1:9", key)


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    (make_home(tmp_path / "home") / "api-key").write_bytes(b"\xff\xfe")
    with pytest.raises(Unauthorised, match=r"the key from .*/home/api-key has characters that no key has"):
        Client(home=tmp_path / "home")


def test_a_home_on_which_nothing_runs_is_named(tmp_path: Path) -> None:
    source = find_connection(home=tmp_path, environ={}).url_source
    assert source == f"the default address, as nothing runs on the home {tmp_path}"
