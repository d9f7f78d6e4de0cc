"""The home: chosen once and kept, one holder at a time, and one sentence for everything that is wrong with it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from trainwright.embedded import home as module
from trainwright.embedded import leftovers, platform, process
from trainwright.embedded.errors import HomeError
from trainwright.embedded.home import Home, port_in_use
from trainwright.embedded.roster import Roster


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(HomeError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_was_chosen_once_is_kept(home: Home) -> None:
    first = home.identity()
    assert first.port == 8700
    assert home.identity() == first
    home.save(replace(first, port=9001))
    assert home.identity() == replace(first, port=9001)
    assert home.api_key() == home.api_key()


def test_two_homes_choose_different_ports_and_keys(tmp_path: Path) -> None:
    homes = [Home(tmp_path / str(number)) for number in range(4)]
    for one in homes:
        one.create()
    assert len({one.identity().kafka_port for one in homes}) == 4
    assert len({one.api_key() for one in homes}) == 4


def test_the_key_is_for_its_owner_only_even_if_somebody_opened_it(home: Home) -> None:
    key = home.api_key()
    assert home.api_key_file.stat().st_mode & 0o777 == 0o600
    home.api_key_file.chmod(0o644)
    assert home.api_key() == key
    assert home.api_key_file.stat().st_mode & 0o777 == 0o600


def test_an_emptied_key_file_gets_a_new_key(home: Home) -> None:
    home.api_key()
    home.api_key_file.write_text("\n")
    assert len(home.api_key()) > 20


def test_a_kept_kafka_port_that_a_stranger_took_is_replaced_and_the_other_stays(home: Home) -> None:
    before = home.free_kafka_ports(home.identity())
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", before.controller_port))
        stranger.listen()
        after = home.free_kafka_ports(before)
    assert after.kafka_port == before.kafka_port
    assert after.controller_port != before.controller_port
    assert home.identity() == after


def test_one_holder_at_a_time_and_the_lock_ends_with_its_process(home: Home) -> None:
    assert home.holder() is None
    with home.locked():
        assert home.holder() == os.getpid()
        said = complaint(lambda: home.locked(0.1).__enter__())
        assert f"pid {os.getpid()}" in said
        assert "trainwright down" in said
    code = (
        "import sys, time; from pathlib import Path; from trainwright.embedded.home import Home\n"
        "with Home(Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(home.path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert home.holder() == other.pid
        other.kill()
    assert home.holder() is None
    with home.locked():
        pass


def test_a_file_in_place_of_the_home_or_of_a_folder_in_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in complaint(Home(tmp_path / "file").create)
    assert "a file is in the place of a folder" in complaint(Home(tmp_path / "file" / "below").create)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "blobs").write_text("")
    assert "'blobs'" in complaint(Home(tmp_path / "home").create)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"port": 8700}', '{"port": "x"}', "\x00"])
def test_a_damaged_home_json_is_said_and_not_overwritten(home: Home, text: str) -> None:
    home.identity_file.write_text(text)
    assert "home.json is damaged" in complaint(home.identity)
    assert home.identity_file.read_text() == text


def test_a_port_out_of_range_in_home_json_is_damage(home: Home) -> None:
    home.identity()
    document = json.loads(home.identity_file.read_text())
    home.identity_file.write_text(json.dumps({**document, "kafka_port": 70_000}))
    assert "damaged" in complaint(home.identity)


def test_a_nearly_full_disk_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FREE_BYTES", shutil.disk_usage(tmp_path).total * 2)
    assert "nearly full" in complaint(Home(tmp_path / "home").create)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_when_it_is_written(home: Home) -> None:
    for name, action in (
        (f".probe-{os.getpid()}", home.create),
        (f".home.json.{os.getpid()}", home.identity),
        (f".api-key.{os.getpid()}", home.api_key),
        (f".state.json.{os.getpid()}", lambda: home.write_state({})),
    ):
        (home.path / name).symlink_to("/dev/full")
        assert complaint(action).endswith("the disk is full")
        assert not (home.path / name).is_symlink()


def test_damaged_state_is_no_state(home: Home) -> None:
    home.state_file.write_text("[1")
    assert home.state() == {}


def test_a_port_is_in_use_only_while_somebody_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert port_in_use(port)
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = server.accept()
            connection.close()  # our side closes first: the port stays in TIME_WAIT for a minute
    assert not port_in_use(port)


def test_a_port_that_somebody_keeps_without_listening_is_in_use() -> None:
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        assert port_in_use(keeper.getsockname()[1])


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can become nobody")
def test_a_port_that_wants_more_rights_is_told_so() -> None:
    code = (
        "import os; from trainwright.embedded.home import port_in_use\n"
        "os.seteuid(65534)\n"
        "try: port_in_use(1)\n"
        "finally: os.seteuid(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("every user may take any port here")
    assert "Port 1 needs more rights than this user has; choose one from 1024 on" in done.stderr


LOCKING = """
import fcntl, sys, time
file = open(sys.argv[1], "r+b")
(fcntl.flock if sys.argv[2] == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@contextmanager
def locked(path: Path, how: str) -> Iterator[None]:
    """Have another process hold a lock on a file."""
    with subprocess.Popen([sys.executable, "-c", LOCKING, path, how], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.kill()


def test_a_holder_that_did_not_write_who_it_is_still_holds_the_home(home: Home) -> None:
    home.lock_file.write_text("somebody")
    with locked(home.lock_file, "flock"):
        assert home.holder() == 0
    assert home.holder() is None


def test_data_that_another_kafka_uses_are_left_alone(home: Home) -> None:
    lock = home.kafka / "log" / ".lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with locked(lock, "lockf"):
        assert "Another Kafka still uses the data" in complaint(lambda: leftovers.clear(home, lambda: True))
    assert leftovers.clear(home) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"shim_pid": "one"}', '{"shim_pid": 1}'])
def test_a_shim_that_did_not_say_who_it_is_is_no_run(home: Home, text: str) -> None:
    folder = home.path / "workers/worker-1/attempts/task-1"
    folder.mkdir(parents=True)
    (folder / "shim.json").write_text(text)
    assert leftovers.runs(home) == []


def test_a_roster_that_cannot_be_read_is_told_and_none_is_an_empty_one(home: Home) -> None:
    roster = Roster(home)
    assert roster.read() == set()
    roster.write({"worker-2", "worker-1"})
    assert roster.read() == {"worker-1", "worker-2"}
    file = home.path / "roster.json"
    for damaged in ("[", '{"a": 1}', "[1]"):
        file.write_text(damaged)
        assert "is damaged; remove this one file" in complaint(roster.read)
    file.unlink()
    file.mkdir()
    assert "roster.json cannot be read: " in complaint(roster.read)


def test_what_is_not_there_has_no_words_no_memory_and_is_not_ready(home: Home) -> None:
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        assert not platform.is_ready(keeper.getsockname()[1])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process.memory(gone.pid) is None
    assert process.tail(home.log("nobody")) == ""
    assert platform._provisioner(home, {"workers": "auto"}) == {
        "at": None,
        "ok": False,
        "waiting": 0,
        "machines": {},
        "notes": ["it has said nothing yet"],
        "max_workers": None,
    }
