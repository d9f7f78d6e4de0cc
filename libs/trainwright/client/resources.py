"""What of the client is about resources: the pool, quotas, reservations, and why a task waits."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from trainwright.client.wire import given, segment
from trainwright.contracts.base import Contract
from trainwright.contracts.pool import Allocation, AllocationPage, DemandView, PoolUse, PoolView
from trainwright.contracts.quota import CordonDocument, QuotaList, ReservationDocument, ReservationList, Strategy
from trainwright.contracts.waiting import Simulated, Why

C = TypeVar("C", bound=Contract)


class Resources:
    """The methods of a client that are about resources; `_get` is the client's own."""

    def _get(self, model: type[C], method: str, path: str, **request: Any) -> C:
        raise NotImplementedError

    def why(self, task_id: str) -> Why:
        """Return why a task waits, and what would unblock it."""
        return self._get(Why, "GET", f"/tasks/{segment(task_id)}/why")

    def simulate(
        self,
        resource_requirements: Mapping[str, Any],
        *,
        priority: int = 0,
        strategy: str | None = None,
        timeout: float | str | None = None,
    ) -> Simulated:
        """Return what would happen to a submission now; `ResourceLimitError` when its quota can never allow it."""
        body = {"resource_requirements": dict(resource_requirements), "priority": priority}
        body |= given(strategy=strategy, timeout=timeout)
        return self._get(Simulated, "POST", "/resources/simulate", json=body)

    def pool(self) -> PoolView:
        """Return what there is, what is free, what is reserved."""
        return self._get(PoolView, "GET", "/resources/pool")

    def allocations(self, *, limit: int | None = None, cursor: str | None = None) -> AllocationPage:
        """Return one page of who has which place."""
        return self._get(AllocationPage, "GET", "/resources/allocations", params=given(limit=limit, cursor=cursor))

    def all_allocations(self) -> Iterator[Allocation]:
        """Yield who has which place, page by page."""
        cursor: str | None = None
        while True:
            page = self.allocations(limit=500, cursor=cursor)
            yield from page.allocations
            cursor = page.next_cursor
            if cursor is None:
                return

    def usage(self) -> PoolUse:
        """Return what is in use by strategy, and what workers measured."""
        return self._get(PoolUse, "GET", "/resources/usage")

    def demand(self) -> DemandView:
        """Return which waiting tasks more workers could help, by shape."""
        return self._get(DemandView, "GET", "/resources/demand")

    def quotas(self) -> QuotaList:
        """Return declared strategies and their quotas."""
        return self._get(QuotaList, "GET", "/resources/quotas")

    def set_quota(self, strategy: str, **quota: float) -> Strategy:
        """Declare a strategy, or change its quota: `cpu_percent`, `gpu_memory_mb`, `max_workers`, `weight`, and
        `reclaim` to have runs that are over it save and wait.
        """
        return self._get(Strategy, "PUT", f"/resources/quotas/{segment(strategy)}", json=quota)

    def remove_quota(self, strategy: str) -> Strategy:
        """Take a strategy's quota away."""
        return self._get(Strategy, "DELETE", f"/resources/quotas/{segment(strategy)}")

    def reservations(self) -> ReservationList:
        """Return parts of workers that are kept, the first to end first."""
        return self._get(ReservationList, "GET", "/resources/reservations")

    def reserve(self, part: Mapping[str, Any], **whom: str | None) -> ReservationDocument:
        """Keep a part of a worker for `strategy` or `task_id`; `part` has `gpu`, `cpu`, `until` or `duration` …"""
        body = {**part, **given(**whom)}
        return self._get(ReservationDocument, "POST", "/resources/reservations", json=body)

    def end_reservation(self, reservation_id: str) -> ReservationDocument:
        """End a reservation; runs in it go on."""
        return self._get(ReservationDocument, "DELETE", f"/resources/reservations/{segment(reservation_id)}")

    def drain(self, worker_id: str, *, reason: str = "drained by hand") -> CordonDocument:
        """Let a worker take nothing new; what runs there goes on."""
        return self._get(CordonDocument, "POST", f"/workers/{segment(worker_id)}/drain", json={"reason": reason})

    def undrain(self, worker_id: str) -> CordonDocument:
        """Let a worker take attempts again."""
        return self._get(CordonDocument, "POST", f"/workers/{segment(worker_id)}/undrain")
