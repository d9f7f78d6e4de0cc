"""Strategies: what each may have (quotas) and whose turn it is (fair share).

Fair share: of strategies with work of the same priority, the one goes first whose use is the smallest for its
weight. Use is the dominant share (the largest of its shares of GPUs, CPU cores and memory: DRF, Ghodsi et al.,
NSDI 2011), as it is now plus its mean over the recent past, which fades by half in every half-life (as Slurm's
multifactor priority plugin has it with ``PriorityDecayHalfLife``). A strategy that waited while others ran comes
first; one that comes new owes nothing.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from services.scheduler.domain.pool import EPSILON, Needs, Pool
from services.scheduler.domain.queue import Reason
from trainwright.contracts.queue import WaitClass

MIB = 2**20
HALF_LIFE = 3600.0
"""Seconds in which what a strategy has used counts half as much."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a declared strategy may have at a time, and its weight in the fair share."""

    cpu_percent: float = 50.0
    gpu_memory_mb: int = 8192
    max_workers: int = 4
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Use:
    """What is in use: GPUs, CPU cores, bytes of memory, bytes of GPU memory, members at work."""

    gpu: int = 0
    cpu: float = 0.0
    memory: int = 0
    gpu_memory: int = 0
    members: int = 0

    def plus(self, other: "Use", sign: int = 1) -> "Use":
        """Return both together (or, with -1, without the other)."""
        return Use(
            self.gpu + sign * other.gpu,
            self.cpu + sign * other.cpu,
            self.memory + sign * other.memory,
            self.gpu_memory + sign * other.gpu_memory,
            self.members + sign * other.members,
        )


@dataclass(slots=True)
class Account:
    """What a strategy has in use, and what it had in the recent past."""

    now: Use = field(default_factory=Use)
    past: float = 0.0
    """Mean dominant share of the recent past, at ``at``."""
    at: float = 0.0

    def moved(self, at: float, pool: Pool) -> float:
        """Return the mean of the recent past at a later moment."""
        kept: float = 0.5 ** (max(0.0, at - self.at) / HALF_LIFE)
        return self.past * kept + dominant(self.now, pool.total()) * (1 - kept)

    def change(self, use: Use, sign: int, at: float, pool: Pool) -> None:
        """Note that something is in use from now on, or is not any more."""
        self.past, self.at = self.moved(at, pool), max(at, self.at)
        self.now = self.now.plus(use, sign)


def dominant(use: Use, total: tuple[float, float, float]) -> float:
    """Return the largest of the shares of GPUs, CPU cores and memory."""
    gpus, cpus, memory = total
    return max(
        use.gpu / gpus if gpus else 0.0, use.cpu / cpus if cpus else 0.0, use.memory / memory if memory else 0.0
    )


def use_of(needs: Needs, gpu_memory: int) -> Use:
    """Return what a task would use, with the memory of a GPU where it asks for whole ones."""
    n = needs.members
    per_gpu = needs.gpu_memory or gpu_memory
    return Use(n * needs.gpu, n * needs.cpu, n * needs.memory, n * needs.gpu * per_gpu, n)


def largest_gpu(pool: Pool) -> int:
    """Return the bytes of the largest GPU, which a task that asks for whole ones may get."""
    return max((memory for host in pool.hosts.values() for memory in host.gpus.values()), default=0)


class Excess(NamedTuple):
    """A limit of a quota that a task would exceed: what it asks for, what is in use, what may be."""

    asks: float
    used: float
    limit: float
    unit: str
    share: str = ""
    """Of which the limit is a part, in words: it grows with the workers. Empty where it does not."""

    @property
    def alone(self) -> bool:
        """Return whether the task exceeds it by itself, whatever else runs."""
        return self.asks > self.limit + EPSILON

    def reason(self, strategy: str) -> Reason:
        """Return why a task waits: the same words however much of the quota is in use at the moment."""
        most = f"{self.limit:g} {self.unit}{f' ({self.share})' if self.share else ''}"
        if not self.alone:
            words = f"waiting for the quota of strategy {strategy}: it may have {most} at a time"
        elif self.share:
            words = f"waiting for more workers or a larger quota of strategy {strategy}"
            words += f": asks for {self.asks:g}, may have {most}"
        else:
            words = f"never fits the quota of strategy {strategy}: asks for {self.asks:g}, may have {most}"
        return Reason(WaitClass.QUOTA, words)


def over_quota(quota: Quota, used: Use, wanted: Use, cpus: float) -> Excess | None:
    """Return the limit by which a strategy may not have more now; first one that a task exceeds by itself."""
    share = f"{quota.cpu_percent:g} % of {cpus:g}"
    memory = wanted.gpu_memory / MIB, used.gpu_memory / MIB
    limits = (
        Excess(*memory, float(quota.gpu_memory_mb), "MB of GPU memory"),
        Excess(wanted.members, used.members, float(quota.max_workers), "workers"),
        Excess(wanted.cpu, used.cpu, quota.cpu_percent / 100 * cpus, "CPU", share),
    )
    over = [one for one in limits if one.asks and one.asks + one.used > one.limit + EPSILON]
    return next((one for one in over if one.alone), over[0] if over else None)


@dataclass(slots=True)
class Shares:
    """The accounts and quotas of all strategies."""

    accounts: dict[str, Account] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)

    def account(self, strategy: str) -> Account:
        """Return a strategy's account."""
        return self.accounts.setdefault(strategy, Account())

    def weight(self, strategy: str) -> float:
        """Return a strategy's weight."""
        quota = self.quotas.get(strategy)
        return 1.0 if quota is None else quota.weight


@dataclass(slots=True)
class Ledger:
    """Shares during one pass: what has been given away in it counts; the shares themselves stay."""

    shares: Shares
    pool: Pool
    now: float
    gpu_memory: int = 0
    total: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _extra: dict[str, Use] = field(default_factory=dict)
    _past: dict[str, float] = field(default_factory=dict)
    _share: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gpu_memory, self.total = largest_gpu(self.pool), self.pool.total()

    def used(self, strategy: str) -> Use:
        """Return what a strategy has in use, this pass included."""
        account = self.shares.accounts.get(strategy)
        use = Use() if account is None else account.now
        extra = self._extra.get(strategy)
        return use if extra is None else use.plus(extra)

    def give(self, strategy: str, needs: Needs) -> None:
        """Count what a task gets."""
        self._extra[strategy] = self._extra.get(strategy, Use()).plus(use_of(needs, self.gpu_memory))
        self._share.pop(strategy, None)

    def share(self, strategy: str) -> float:
        """Return a strategy's use for its weight: the smallest goes first."""
        share = self._share.get(strategy)
        if share is None:
            past = self._past.get(strategy)
            if past is None:
                account = self.shares.accounts.get(strategy)
                past = self._past[strategy] = 0.0 if account is None else account.moved(self.now, self.pool)
            share = (past + dominant(self.used(strategy), self.total)) / self.shares.weight(strategy)
            self._share[strategy] = share
        return share

    def excess(self, strategy: str, needs: Needs) -> Excess | None:
        """Return the limit of a quota that forbids a place now; None if none does."""
        quota = self.shares.quotas.get(strategy)
        if quota is None:
            return None
        wanted = use_of(needs, self.gpu_memory)
        return over_quota(quota, self.used(strategy), wanted, self.total[1])

    def refusal(self, strategy: str, needs: Needs) -> Reason | None:
        """Return why a quota forbids a place now; None if it does not."""
        excess = self.excess(strategy, needs)
        return None if excess is None else excess.reason(strategy)
