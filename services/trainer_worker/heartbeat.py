"""Signs of life: the worker's heartbeat, and how far each attempt has come. Losing one costs nothing."""

import logging
from datetime import timedelta

from services.trainer_worker import store
from services.trainer_worker.attempts import Attempts
from services.trainer_worker.domain import Read
from services.trainer_worker.inventory import UsageMeter, gpu_usage, total_usage
from services.trainer_worker.lead import Lead
from services.trainer_worker.place import Workplace
from trainwright.contracts.pulse import AttemptProgressed, WorkerHeartbeat
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.worker import WorkerDocument
from trainwright.runtime.pulse import PulseSender

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
GPU_SECONDS = 10.0
ENDED_FOR = timedelta(minutes=10)
SEQ_ROOM = 10**9
"""Pulses that one incarnation may number: the worker's version, which grows at each start, counts in front.
"""


class Pulses:
    """Measures and sends pulses of one incarnation."""

    def __init__(self, place: Workplace, worker: WorkerDocument, attempts: Attempts, sender: PulseSender) -> None:
        self._place = place
        self._worker = worker
        self._attempts = attempts
        self._sender = sender
        self._meter = UsageMeter()
        self._usage: dict[str, ResourceUsage] = {}
        self._gpu_at = 0.0
        self._sent_at: dict[str, float] = {}
        self._unsent: set[str] = set()
        self._seq = worker.version * SEQ_ROOM

    async def beat(self) -> None:
        """Send a heartbeat with what runs and what ended lately."""
        place, leads = self._place, self._attempts.leads.values()
        await self._measure()
        heartbeat = WorkerHeartbeat(
            worker_id=place.worker_id,
            incarnation=place.incarnation,
            time=place.clock.now(),
            usage=total_usage(self._usage, self._place.gpus),
            running=await store.live_refs(place.documents),
            ended=await store.reported_since(place.documents, place.clock.now() - ENDED_FOR),
            heeding=[one.attempt.task_id for one in leads if one.has("asks_stop") and one.has("saves")],
        )
        self._sender.send("heartbeat", heartbeat)

    async def send_late(self) -> None:
        """Send the progress that was held back because one had just been sent."""
        for key in list(self._unsent):
            if self._is_due(key):
                self._send(key)
        self._sent_at = {key: at for key, at in self._sent_at.items() if key in self._attempts.leads}

    def on_read(self, key: str, read: Read) -> None:
        """Send progress at most once a second."""
        if self._is_due(key):
            self._send(key)
        else:
            self._unsent.add(key)

    def on_phase(self, key: str) -> None:
        """Send a change of phase at once."""
        self._send(key)

    def _is_due(self, key: str) -> bool:
        return self._place.clock.monotonic() - self._sent_at.get(key, -PROGRESS_SECONDS) >= PROGRESS_SECONDS

    def _send(self, key: str) -> None:
        self._unsent.discard(key)
        lead, read = self._attempts.leads.get(key), self._place.publisher.read(key)
        if lead is None or read is None or not lead.attempt.speaks:
            return
        self._sent_at[key] = self._place.clock.monotonic()
        self._seq += 1
        progress = AttemptProgressed(
            task_id=lead.attempt.task_id,
            attempt=lead.attempt.attempt,
            worker_id=self._place.worker_id,
            seq=self._seq,
            phase=lead.phase,
            step=lead.attempt.resume_step if read.step is None else read.step,
            total_steps=read.total_steps,
            latest_metrics=read.latest,
            usage=self._usage_of(lead),
            eta_seconds=read.eta_seconds(),
            asks_stop=lead.has("asks_stop"),
        )
        self._sender.send(key, progress)

    def _usage_of(self, lead: Lead) -> ResourceUsage:
        usage = self._usage.get(lead.attempt.key, ResourceUsage())
        known = self._place.gpus
        own = {index: known[index] for index in lead.attempt.slots.gpus if index in known}
        if not own:
            return usage
        gpu = total_usage({}, own)
        return usage.model_copy(update={"gpu": gpu.gpu, "gpu_memory": gpu.gpu_memory})

    async def _measure(self) -> None:
        now = self._place.clock.monotonic()
        roots = {key: lead.shim_pid for key, lead in self._attempts.leads.items()}
        known = {key: pid for key, pid in roots.items() if pid is not None}
        self._usage = self._meter.measure(known, now) if known else {}
        if self._worker.gpus and now - self._gpu_at >= GPU_SECONDS:
            found, self._gpu_at = await gpu_usage(), now
            self._place.gpus.clear()
            self._place.gpus.update(found)
