"""The run's parent: starts the child, ends its whole tree when told or deserted, writes how it ended.

Started as `python -I -S shim.py <attempt dir> [lock fd]`; it reads `spec.json` ("argv", "cwd", "agent_lock")
and leaves `shim.json` and `exit.json`. The environment is the child's own. Standard library only and no
imports of the project: it must stay small and outlive the agent. On Linux it is a subreaper, so processes
that left their parent or session are still its descendants; macOS has none, there it follows the process
table and can miss one that was re-parented within a poll.
Not here: why a run failed (trainwright.training.classify), what is published (the agent).
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time

POLL_SECONDS = 0.1
ORPHAN_SECONDS = 30.0
TERM_SECONDS = 10.0
OOM_SECONDS = 10
LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PF_EXITING = 4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, object]


def main(arguments: list[str]) -> int:
    """Run the attempt in the directory named first; return 0 when `exit.json` was written."""
    os.chdir(arguments[0])
    _hold_lock(int(arguments[1]) if len(arguments) > 1 else None)
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl = Prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with open("spec.json", encoding="utf-8") as file:
        spec = json.load(file)
    shim = Shim(spec)
    shim.start(prctl)
    shim.watch()
    return shim.leave()


def _hold_lock(fd: int | None) -> None:
    """Keep `shim.lock` until this process ends: it is how an agent sees that the attempt has a shim."""
    if fd is None:
        fd = os.open("shim.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
    os.set_inheritable(fd, False)


class Shim:
    """Hold one child and its descendants from start to `exit.json`."""

    def __init__(self, spec: Json) -> None:
        self.argv = [str(item) for item in _as_list(spec["argv"])]
        self.cwd = str(spec.get("cwd") or "work")
        self.agent_lock = str(spec["agent_lock"])
        self.orphan_seconds = float(str(spec.get("orphan_seconds") or ORPHAN_SECONDS))
        self.term_seconds = float(str(spec.get("term_seconds") or TERM_SECONDS))
        self.child = 0
        self.status: int | None = None
        self.error: str | None = None
        self.reason = "exited"
        self.stop: Json | None = None
        self.signal = signal.SIGTERM
        self.signalled = False
        self.stop_at = float("inf")
        self.kill_at = float("inf")
        self.deserted_since: float | None = None
        self.control_stamp: tuple[int, int] | None = None
        self.usage: Json = {}
        self.started_at = ""
        self.oom_kills = OomKills()
        self.wake_read, self.wake_write = os.pipe()
        self.told_to_end = False

    def start(self, prctl: "Prctl") -> None:
        """Fork the child into a process group of its own; one that cannot be executed is an ending, no crash."""
        for end in (self.wake_read, self.wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_end)
        self.started_at = _now()
        read_end, write_end = os.pipe()
        own_pid = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            _become_child(self.argv, self.cwd, write_end, prctl, own_pid)
        os.close(write_end)
        failure = os.read(read_end, 4096)
        os.close(read_end)
        if failure:
            self.error, self.reason = failure.decode("utf-8", "replace"), "not_started"
        _crash("shim.child_started")
        state = {"shim_pid": own_pid, "shim_start": process_start(own_pid), "started_at": self.started_at}
        _write("shim.json", {**state, "child_pid": self.child, "child_start": process_start(self.child)})

    def watch(self) -> None:
        """Wait until the child has ended, doing meanwhile what control.json and the agent's lock ask for."""
        while not self._reap():
            select.select([self.wake_read], [], [], POLL_SECONDS)
            with contextlib.suppress(BlockingIOError):
                while os.read(self.wake_read, 512):
                    pass
            now = time.monotonic()
            self.oom_kills.look(now, self.child)
            self._read_control(now)
            self._look_for_agent(now)
            if now >= self.kill_at:
                self.signalled = True
                end_descendants(self._reap)
            elif now >= self.stop_at:
                self.stop_at, self.kill_at = float("inf"), min(self.kill_at, now + self.term_seconds)
                self.signalled = True
                _signal(-self.child, self.signal)

    def leave(self) -> int:
        """End what the child left behind, then write `exit.json`; a full disk is tried again for a minute."""
        if not LINUX:
            _signal(-self.child, signal.SIGKILL)
        end_descendants(self._reap)
        _crash("shim.child_ended")
        status = self.status or 0
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        ending = {
            "exit_code": None if killed_by else os.WEXITSTATUS(status),
            "signal": signal.Signals(killed_by).name if killed_by else None,
            "reason": self.reason,
            "error": self.error,
            "stop": self.stop,
            "signalled": self.signalled,
            "oom_kills": self.oom_kills.recent(),
            "started_at": self.started_at,
            "ended_at": _now(),
            **self.usage,
        }
        for _ in range(60):
            try:
                _write("exit.json", ending)
                _crash("shim.told")
                return 0
            except OSError:
                time.sleep(1)
        return 1

    def _on_end(self, number: int, frame: object) -> None:
        self.told_to_end = True

    def _reap(self) -> bool:
        """Collect every ended descendant; return whether the child itself has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return self.status is not None
            if pid == 0:
                return self.status is not None
            if pid == self.child:
                self.status = status
                scale = 1024 if LINUX else 1
                self.usage = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss": usage.ru_maxrss * scale}

    def _read_control(self, now: float) -> None:
        if self.told_to_end and self.reason == "exited":
            self._begin_end("shim_told_to_end", now)
        try:
            status = os.stat("control.json")
            stamp = (status.st_ino, status.st_mtime_ns)
            if stamp == self.control_stamp:
                return
            with open("control.json", encoding="utf-8") as file:
                stop = json.load(file).get("stop")
        except (OSError, ValueError):
            return
        self.control_stamp = stamp
        if isinstance(stop, dict) and self.reason == "exited":
            self.stop = stop
            self.signal = getattr(signal, str(stop.get("signal")), signal.SIGTERM)
            self.term_seconds = float(stop.get("term") or self.term_seconds)
            self.stop_at = min(self.stop_at, now + max(0.0, float(stop.get("deadline") or 0)))

    def _look_for_agent(self, now: float) -> None:
        """The agent holds its lock exclusively; being able to share it means that no agent lives."""
        try:
            fd = os.open(self.agent_lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            alone = True
        else:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                alone = True
            except OSError:
                alone = False
            finally:
                os.close(fd)
        if not alone:
            self.deserted_since = None
        elif self.deserted_since is None:
            self.deserted_since = now
        elif now - self.deserted_since >= self.orphan_seconds and self.reason == "exited":
            self._begin_end("no_agent", now)

    def _begin_end(self, reason: str, now: float) -> None:
        self.reason = reason
        self.stop_at = min(self.stop_at, now)


class OomKills:
    """Count what the kernel killed lately for want of memory in the run's memory group (Linux; 0 elsewhere).

    Lately, because a kill counts for every run of the group, and only the last seconds can explain an ending.
    """

    def __init__(self) -> None:
        self.counter = oom_counter(os.getpid())
        self.seen = [(time.monotonic(), self._count())]

    def look(self, now: float, pid: int) -> None:
        """Follow a process that moved to another group; remember the count once a second, while it may matter."""
        counter = oom_counter(pid)
        stat = _stat(pid)
        if counter != self.counter and stat and not int(stat[6]) & _PF_EXITING:  # who dies is shown in the root
            self.counter = counter
            self.seen = [(now, self._count())]
        if now - self.seen[-1][0] >= 1:
            self.seen = [*self.seen[-OOM_SECONDS:], (now, self._count())]

    def recent(self) -> int:
        """Return the kills of the last seconds."""
        return self._count() - self.seen[0][1]

    def _count(self) -> int:
        with contextlib.suppress(OSError), open(self.counter, encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        return 0


def oom_counter(pid: int) -> str:
    """Return the file that counts kills for want of memory in a process's group: cgroup 2, 1, or the machine's.

    A container may see its own group as the root of the tree, whatever the path says.
    """
    found = "/proc/vmstat"
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        for number, kinds, path in (line.rstrip("\n").split(":", 2) for line in reversed(file.readlines())):
            of_memory = "memory" in kinds.split(",")
            if number == "0" or of_memory:
                root = "/sys/fs/cgroup/memory" if of_memory else "/sys/fs/cgroup"
                name = "memory.oom_control" if of_memory else "memory.events"
                found = next(filter(os.path.exists, (f"{root}{path}/{name}", f"{root}/{name}")), found)
    return found


class Prctl:
    """Call Linux's prctl, or do nothing where there is none."""

    def __init__(self) -> None:
        self._call = None
        if LINUX:
            import ctypes

            self._call = ctypes.CDLL(None, use_errno=True).prctl

    def __call__(self, option: int, value: int) -> None:
        """Set a process attribute."""
        if self._call is not None:
            self._call(option, value, 0, 0, 0)


def _become_child(argv: list[str], cwd: str, report: int, prctl: Prctl, parent: int) -> None:
    """In the forked process: become the run, or report why not and leave; never returns."""
    try:
        os.setpgid(0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        for name, target in (("/dev/null", 0), ("stdout.log", 1), ("stderr.log", 2)):
            fd = os.open(name, flags if target else os.O_RDONLY, 0o644)
            os.dup2(fd, target)
            os.close(fd)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, os.environ)
    except BaseException as error:
        os.write(report, f"cannot start {argv[0]}: {error}".encode()[:4000])
    finally:
        os._exit(127)


def end_descendants(reap: "Callable[[], bool]") -> None:
    """SIGKILL every descendant of this process until none is left; 5 s at most for one stuck in the kernel."""
    until = time.monotonic() + 5
    pause = 0.0005
    while True:
        reap()
        alive = descendants(os.getpid())
        if not alive or time.monotonic() > until:
            return
        for pid in alive:
            _signal(pid, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def descendants(root: int) -> list[int]:
    """Return the pids below `root` that are not zombies, parents first."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for pid, parent, state in _process_table():
        children.setdefault(parent, []).append(pid)
        if state.startswith("Z"):
            zombies.add(pid)
    found = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return [pid for pid in found if pid not in zombies]


def _process_table() -> list[tuple[int, int, str]]:
    if not LINUX:
        table = os.popen("ps -axo pid=,ppid=,stat=").read().split("\n")
        rows = [line.split() for line in table if line.strip()]
        return [(int(pid), int(parent), state) for pid, parent, state in rows]
    stats = [(int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit()]
    return [(pid, int(stat[1]), stat[0]) for pid, stat in stats if stat is not None]


def _stat(pid: int) -> list[str] | None:
    """Return /proc/<pid>/stat from the state on (the name before may hold anything), or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def process_start(pid: int) -> str | None:
    """Return a text that tells this process from a later one with the same pid; None when it does not live."""
    if LINUX:
        stat = _stat(pid)
        return stat[19] if stat is not None else None
    return os.popen(f"ps -o lstart= -p {int(pid)}").read().strip() or None


def _crash(point: str) -> None:
    """Pass a crash point, if tests have switched them on (trainwright.crash)."""
    if "CRASH_CODE" in os.environ:
        import runpy

        runpy.run_path(os.environ["CRASH_CODE"])["point"](point)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _as_list(value: object) -> list[object]:
    if not isinstance(value, list) or not value:
        raise ValueError("spec.json: argv must be a list that is not empty")
    return value


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06d}Z"


def _write(name: str, value: Json) -> None:
    """Write a state file so that a reader, or a crash, sees it whole or not at all."""
    temporary = name + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, name)
    folder = os.open(".", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
