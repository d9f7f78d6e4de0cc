"""The series port on MongoDB, in the database and the transactions of a ``MongoStore``.

Calls of ``run.log`` lie in chunks of about 8 KiB, all names of one attempt together: a document a point would
cost more in keys and index than in numbers, one a batch leaves a slow run with as many documents as points, one
for each name multiplies the writes. The last chunk is written again until it is full; a chunk's ``_id`` is its
task and first number, so that a tail and a history are one range of the index that is there anyway. Numbers grow
by task: the task's own document counts them, so that transactions of two replicas on one task cannot both commit,
and a reader who reads it first misses nothing below its count.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import Any

from trainwright.contracts.metric import MetricPoint
from trainwright.storage import chunks
from trainwright.storage.chunks import Chunk
from trainwright.storage.document import Collection as Documents
from trainwright.storage.document import Document, Transaction
from trainwright.storage.mongo import MongoReader, MongoStore, MongoTransaction
from trainwright.storage.numbered import above
from trainwright.storage.series import NOTHING, AttemptState, Logged, Tail, fence_of

TASKS, NAMES, CHUNKS = "series_tasks", "series_names", "series_chunks"
COLLECTIONS = tuple(Documents(name) for name in (TASKS, NAMES, CHUNKS))

_ENDLESS = 2**63 - 1

PAGE = 256
"""Chunks of one answer of the server, in a history."""
LOOKS = (2, 4, 8, 16, 32, 64, 64, 64)
"""Chunks of the server's answers in one look at a tail: mostly the first is enough."""


@dataclass(slots=True)
class _Task:
    """What is known of a task: its last number, its attempts and their marks, and the chunk that is not full."""

    id: str
    seq: int = 0
    attempts: dict[int, AttemptState] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    open: tuple[int, int, int] | None = None
    """Attempt, first and last number."""

    def document(self) -> Document:
        states = [{**asdict(state), "mark": self.marks.get(n, -1)} for n, state in sorted(self.attempts.items())]
        return {"_id": self.id, "seq": self.seq, "open": self.open and list(self.open), "attempts": states}


@dataclass(frozen=True, slots=True)
class _Part:
    """One attempt's share of a named series: its column, its newest chunk, and up to where it counts."""

    name: str
    attempt: int
    column: int
    chunk: int
    step: int
    seq: int

    @property
    def whole(self) -> bool:
        """Whether all of it counts."""
        return self.step == self.seq == _ENDLESS


class MongoSeries:
    """Series beside the documents of one store; open the store with ``COLLECTIONS``."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store

    async def append(self, tx: Transaction, task_id: str, attempt: int, points: Sequence[MetricPoint]) -> int:
        transaction = _transaction(tx)
        task = await _noted(transaction, task_id, attempt, None)
        fresh = above(task.marks.get(attempt, -1), points)
        if not fresh:
            return 0
        await _write(transaction, task, attempt, fresh)
        state = task.attempts[attempt]
        steps = [point.step for point in fresh]
        task.attempts[attempt] = replace(
            state,
            last_step=max(steps if state.last_step is None else [state.last_step, *steps]),
            late=state.late + (len(fresh) if attempt < max(task.attempts) else 0),
        )
        task.marks[attempt] = fresh[-1].seq
        transaction.keep(TASKS, task.document())
        return len(fresh)

    async def note_attempt(
        self, tx: Transaction, task_id: str, attempt: int, resume_step: int | None = None
    ) -> None:
        await _noted(_transaction(tx), task_id, attempt, resume_step)

    async def known(self, task_id: str) -> bool:
        with self._store.reading() as reader:
            return await reader.stored(TASKS, task_id) is not None

    async def names(self, task_id: str) -> list[str]:
        with self._store.reading() as reader:
            by_attempt = await _names(reader, await _task(reader, task_id))
        return sorted({name for listed in by_attempt.values() for name in listed})

    async def latest(self, task_id: str) -> dict[str, float]:
        found: dict[str, float] = {}
        with self._store.reading() as reader:
            task = await _task(reader, task_id)
            parts = await _parts(reader, task, None)
            for attempt in sorted(task.attempts, reverse=True):
                missing = [part for part in parts if part.attempt == attempt and part.name not in found]
                found |= await _ends(reader, task, [part for part in missing if part.whole])
                for part in missing:
                    if not part.whole and (value := await _newest(reader, task, part)) is not None:
                        found[part.name] = value
        return dict(sorted(found.items()))

    async def points(
        self, task_id: str, name: str, start_step: int | None = None, end_step: int | None = None
    ) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        start, end = NOTHING if start_step is None else start_step, _ENDLESS if end_step is None else end_step
        with self._store.reading() as reader:
            task = await _task(reader, task_id)
            for part in await _parts(reader, task, [name]):
                highest = min(end, part.step)
                async for chunk in _history(reader, task, part, start, highest):
                    rows, values = chunk.columns[part.column]
                    steps, past = chunk.steps, part.seq - chunk.first + 1
                    found += [
                        (steps[row], value)
                        for row, value in zip(rows, values, strict=True)
                        if row < past and start <= steps[row] <= highest
                    ]
        found.sort(key=itemgetter(0))
        return found

    async def after(
        self, task_id: str, cursor: int, names: Collection[str] | None = None, limit: int = 500
    ) -> Tail:
        records: list[Logged] = []
        with self._store.reading() as reader:
            task = await _task(reader, task_id)
            parts = {(part.attempt, part.column): part for part in await _parts(reader, task, names)}
            attempts, reached = list(task.attempts.values()), cursor
            if not parts:
                return Tail([], task.seq, attempts, more=False)
            columns = None if names is None else {part.column for part in parts.values()}
            place = _id(task_id, max(cursor - chunks.ROWS, 0))
            for look in LOOKS:
                found = await reader.scan(
                    CHUNKS,
                    {"_id": {"$gt": place, "$lte": _id(task_id, task.seq)}, "last": {"$gt": cursor}},
                    look,
                    () if columns is None else chunks.fields_of(columns),
                )
                for chunk in map(chunks.from_document, found):
                    records += _logged(chunk, parts, cursor, task.seq)
                    reached = min(chunk.last, task.seq)
                    if len(records) >= limit:
                        reached = records[limit - 1].seq
                        return Tail(records[:limit], reached, attempts, more=reached < task.seq)
                if len(found) < look:
                    return Tail(records, task.seq, attempts, more=False)
                place = found[-1]["_id"]
        return Tail(records, reached, attempts, more=reached < task.seq)

    async def head(self, task_id: str) -> int:
        with self._store.reading() as reader:
            return (await _task(reader, task_id)).seq

    async def skip(self, task_id: str, newest: int) -> int:
        return max(await self.head(task_id) - newest, 0)


def _transaction(tx: Transaction) -> MongoTransaction:
    if not isinstance(tx, MongoTransaction):
        raise TypeError("series on MongoDB share the transactions of a MongoStore")
    return tx


def _id(task_id: str, first: int) -> str:
    return f"{task_id}/{first:019d}"


def _of_names(task_id: str, attempt: int) -> str:
    return f"{task_id}/{attempt}"


async def _task(reader: MongoReader | MongoTransaction, task_id: str) -> _Task:
    found = await reader.stored(TASKS, task_id)
    if found is None:
        return _Task(task_id)
    states = [{**state} for state in found["attempts"]]
    marks = {state["attempt"]: state.pop("mark") for state in states}
    attempts = {state["attempt"]: AttemptState(**state) for state in states}
    return _Task(task_id, found["seq"], attempts, marks, tuple(found["open"]) if found["open"] else None)


async def _noted(tx: MongoTransaction, task_id: str, attempt: int, resume_step: int | None) -> _Task:
    """Remember what is known of an attempt; return the task."""
    task = await _task(tx, task_id)
    state = task.attempts.get(attempt)
    if state is not None and (resume_step is None or state.resume_step == resume_step):
        return task
    task.seq += 1
    state = state or AttemptState(attempt, since=task.seq)
    if resume_step is not None:
        state = replace(state, resume_step=resume_step, resumed_at=task.seq)
    task.attempts[attempt] = state
    tx.keep(TASKS, task.document())
    return task


async def _write(tx: MongoTransaction, task: _Task, attempt: int, points: Sequence[MetricPoint]) -> None:
    """Put points into chunks, and what is new of names into the attempt's list of them."""
    stored = await tx.stored(NAMES, _of_names(task.id, attempt))
    listed: list[list[Any]] = [] if stored is None else [[*entry] for entry in stored["names"]]
    columns = {entry[0]: column for column, entry in enumerate(listed)}
    chunk = await _open(tx, task, attempt)
    for point in points:
        if chunk.size >= chunks.FULL:
            tx.keep(CHUNKS, chunks.to_document(_id(task.id, chunk.first), chunk))
            chunk = Chunk(attempt, chunk.last + 1)
        for name in point.values:
            if name not in columns:
                columns[name] = len(listed)
                listed.append([name, point.step, chunk.first])
            entry = listed[columns[name]]
            entry[1], entry[2] = min(entry[1], point.step), chunk.first
        chunk.add(point.step, point.time, [(columns[name], value) for name, value in point.values.items()])
    tx.keep(CHUNKS, chunks.to_document(_id(task.id, chunk.first), chunk))
    task.seq = chunk.last
    task.open = (attempt, chunk.first, chunk.last) if chunk.size < chunks.FULL else None
    content = {"_id": _of_names(task.id, attempt), "attempt": attempt, "names": listed}
    if content != stored:
        tx.keep(NAMES, content)


async def _open(tx: MongoTransaction, task: _Task, attempt: int) -> Chunk:
    """Return the chunk that takes the next number: the last one, or a new one when others came between."""
    if task.open is not None and task.open[0] == attempt and task.open[2] == task.seq:
        stored = await tx.stored(CHUNKS, _id(task.id, task.open[1]))
        if stored is not None:
            return chunks.from_document(stored)
    return Chunk(attempt, task.seq + 1)


async def _names(reader: MongoReader, task: _Task) -> dict[int, dict[str, tuple[int, int, int]]]:
    """Return column, lowest step and newest chunk by attempt and name, oldest attempt first."""
    wanted = [_of_names(task.id, attempt) for attempt in task.attempts]
    found = await reader.scan(NAMES, {"_id": {"$in": wanted}}, len(wanted)) if wanted else []
    by_attempt = {
        stored["attempt"]: {name: (column, *rest) for column, (name, *rest) in enumerate(stored["names"])}
        for stored in found
    }
    return dict(sorted(by_attempt.items()))


async def _parts(reader: MongoReader, task: _Task, names: Collection[str] | None) -> list[_Part]:
    """Return the shares that count for anything, oldest attempt first."""
    by_attempt = await _names(reader, task)
    first_steps: dict[str, dict[int, int]] = {}
    for attempt, listed in by_attempt.items():
        for name, (_, first_step, _) in listed.items():
            first_steps.setdefault(name, {})[attempt] = first_step
    parts = []
    for attempt, listed in by_attempt.items():
        for name in listed.keys() if names is None else listed.keys() & set(names):
            fence = fence_of(attempt, first_steps[name], task.attempts.values())
            step = _ENDLESS if fence.step is None else fence.step
            column, first_step, chunk = listed[name]
            if first_step <= step:
                seq = _ENDLESS if fence.seq is None else fence.seq
                parts.append(_Part(name, attempt, column, chunk, step, seq))
    return parts


def _of_part(task: _Task, part: _Part, start: int, end: int) -> Document:
    """Return the filter of the chunks that may hold something of a part between two steps."""
    since, until = task.attempts[part.attempt].since, min(part.seq, task.seq)
    return {
        "_id": {"$gt": _id(task.id, since), "$lte": _id(task.id, until)},
        "attempt": part.attempt,
        f"v{part.column}": {"$exists": True},
        "low": {"$lte": end},
        "high": {"$gte": start},
    }


async def _history(reader: MongoReader, task: _Task, part: _Part, start: int, end: int) -> AsyncIterator[Chunk]:
    wanted, fields = _of_part(task, part, start, end), chunks.fields_of([part.column], times=False)
    found: list[Document] = []
    while found := await reader.scan(CHUNKS, wanted, PAGE, fields):
        for document in found:
            yield chunks.from_document(document)
        if len(found) < PAGE:
            return
        wanted["_id"]["$gt"] = found[-1]["_id"]


async def _ends(reader: MongoReader, task: _Task, parts: Sequence[_Part]) -> dict[str, float]:
    """Return the last values of parts of one attempt that count whole."""
    wanted = sorted({part.chunk for part in parts})
    if not wanted:
        return {}
    fields = chunks.fields_of({part.column for part in parts}, times=False)
    found = await reader.scan(CHUNKS, {"_id": {"$in": [_id(task.id, n) for n in wanted]}}, len(wanted), fields)
    by_first = {chunk.first: chunk for chunk in map(chunks.from_document, found)}
    return {part.name: by_first[part.chunk].columns[part.column][1][-1] for part in parts}


async def _newest(reader: MongoReader, task: _Task, part: _Part) -> float | None:
    """Return the newest value of a part that counts up to somewhere."""
    wanted = _of_part(task, part, NOTHING, part.step)
    fields = chunks.fields_of([part.column], times=False)
    while found := await reader.scan(CHUNKS, wanted, LOOKS[1], fields, backwards=True):
        for chunk in map(chunks.from_document, found):
            rows, values = chunk.columns[part.column]
            for row, value in zip(reversed(rows), reversed(values), strict=True):
                if chunk.first + row <= part.seq and chunk.steps[row] <= part.step:
                    return value
        wanted["_id"] = {"$gt": wanted["_id"]["$gt"], "$lt": found[-1]["_id"]}
    return None


def _logged(chunk: Chunk, parts: dict[tuple[int, int], _Part], cursor: int, head: int) -> Iterable[Logged]:
    """Return the rows of a chunk after a cursor that have something that counts."""
    values: list[dict[str, float]] = [{} for _ in chunk.steps]
    for column, (rows, found) in chunk.columns.items():
        if part := parts.get((chunk.attempt, column)):
            for row, value in zip(rows, found, strict=True):
                if cursor < chunk.first + row <= min(head, part.seq) and chunk.steps[row] <= part.step:
                    values[row][part.name] = value
    return [
        Logged(chunk.first + row, chunk.attempt, chunk.steps[row], chunk.times[row], counted)
        for row, counted in enumerate(values)
        if counted
    ]
