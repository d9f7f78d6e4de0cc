"""The document port on MongoDB: one database a service, transactions on a replica set. The only file with motor.

What a transaction writes is held back and sent in bulk at its end, because a round trip a statement would cost
more than everything else; what it reads sees what it wrote. Reads are of the majority, commits wait for the
majority's journal. When the answer to a commit is lost, the transaction's own mark is read back: it is there or
it is not. Order is promised for each aggregate (by its version), not across: replicas number rows by their clocks.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import orjson
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo import (
    ASCENDING,
    DESCENDING,
    DeleteOne,
    IndexModel,
    InsertOne,
    ReadPreference,
    ReplaceOne,
    UpdateMany,
    UpdateOne,
)
from pymongo.errors import BulkWriteError, CollectionInvalid, ConnectionFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from trainwright import crash
from trainwright.contracts.base import iso
from trainwright.contracts.errors import StoreBusy, StoreUnavailable
from trainwright.storage import mongo_documents as documents
from trainwright.storage import versions
from trainwright.storage.commits import to_its_end
from trainwright.storage.document import Collection, Document, LogPosition, OutboxRow, Page, Where, encode_cursor
from trainwright.storage.mongo_documents import COMMITS, FACTS, GUARDS, INBOX, OUTBOX, Filter
from trainwright.storage.mongo_lease import MongoLease, seal
from trainwright.storage.numbered import RowNumbers

WAITS = {"connectTimeoutMS": 5_000, "serverSelectionTimeoutMS": 5_000, "socketTimeoutMS": 20_000}
"""Milliseconds until a server that does not answer is given up; what the address itself says goes before."""
COMMIT_TRIES = 3
LOOKS = 6
_MAJORITY = WriteConcern(w="majority", j=True, wtimeout=10_000)
_POSITION = "log_position"
_GONE = object()

Session = AsyncIOMotorClientSession | None
Write = InsertOne[Any] | ReplaceOne[Any] | DeleteOne | UpdateMany | UpdateOne


class MongoReader:
    """Questions to one database, inside a session or beside it."""

    def __init__(self, database: AsyncIOMotorDatabase[Any], session: Session) -> None:
        self.database = database
        self.session = session

    async def get(self, collection: str, id: str) -> Document | None:
        found = await to_its_end(self.database[collection].find_one({"_id": id}, session=self.session))
        return None if found is None else documents.from_stored(found["doc"])

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        of_list = f"{collection} {sort}"
        wanted = documents.filter_of(where)
        rows: list[Document] = []
        for behind in [{}] if cursor is None else documents.after(cursor, sort, of_list, wanted):
            if (missing := limit + 1 - len(rows)) > 0:
                found = self.database[collection].find(documents.both(wanted, behind), session=self.session)
                found = found.sort(documents.order_of(sort, wanted)).limit(missing)
                rows += await to_its_end(found.to_list(missing))
        more, rows = len(rows) > limit, rows[:limit]
        items = [documents.from_stored(row["doc"]) for row in rows]
        if not (more and rows):
            return Page(items)
        last = documents.sort_value(items[-1], rows[-1]["_id"], sort)
        return Page(items, encode_cursor(last, rows[-1]["_id"], of_list))

    async def count(self, collection: str, where: Where | None = None) -> int:
        wanted = documents.filter_of(where)
        return int(await to_its_end(self.database[collection].count_documents(wanted, session=self.session)))

    async def stored(self, collection: str, id: str) -> Document | None:
        """Return a document of another port as it lies there, or None."""
        question = self.database[collection].find_one({"_id": id}, session=self.session)
        found: Document | None = await to_its_end(question)
        return found

    async def scan(
        self, collection: str, wanted: Filter, limit: int, fields: Sequence[str] = (), *, backwards: bool = False
    ) -> list[Document]:
        """Return documents of another port by ``_id``, as they lie there; all fields when none are named."""
        found = self.database[collection].find(wanted, list(fields) or None, session=self.session)
        found = found.sort([("_id", DESCENDING if backwards else ASCENDING)]).limit(limit)
        return await to_its_end(found.to_list(limit))


class MongoTransaction:
    """A transaction that is open: reads go to the server, writes wait for `flush`."""

    def __init__(self, reader: MongoReader, numbers: RowNumbers) -> None:
        self._reader = reader
        self._numbers = numbers
        self._changed: dict[tuple[str, str], Any] = {}
        self._writes: dict[str, list[Write]] = {}
        self.added_outbox = False
        self.has_sent = False

    async def get(self, collection: str, id: str) -> Document | None:
        held = self._changed.get((collection, id))
        if held is None:
            return await self._reader.get(collection, id)
        return None if held is _GONE else orjson.loads(held)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        await self.flush()
        return await self._reader.find(collection, where, sort=sort, limit=limit, cursor=cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        await self.flush()
        return await self._reader.count(collection, where)

    async def put(
        self, collection: str, id: str, document: Mapping[str, Any], *, expect: int | None = None
    ) -> None:
        if expect is not None:
            versions.check(await self.get(collection, id), expect, f"{collection} {id}")
        self._changed[collection, id] = orjson.dumps(document)

    async def delete(self, collection: str, id: str) -> None:
        self._changed[collection, id] = _GONE

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        self.write(OUTBOX, [InsertOne(documents.outbox_document(row, self._numbers.next())) for row in rows])
        self.added_outbox = self.added_outbox or bool(rows)

    async def first_time(self, key: str) -> bool:
        return await self._note(INBOX, key, lambda known: known is None, {})

    async def newer(self, scope: str, subject: str, order: tuple[int, int]) -> bool:
        def is_above(known: Document | None) -> bool:
            return known is None or list(order) > known["order"]

        return await self._note(GUARDS, f"{scope} {subject}", is_above, {"order": list(order)})

    async def mark_sent(self, seqs: Sequence[int], at: datetime) -> None:
        rows = {"_id": {"$in": [documents.outbox_id(seq) for seq in seqs]}}
        self.write(OUTBOX, [UpdateMany(rows, {"$set": {"sent": True, "sent_at": iso(at)}})])

    async def set_log_position(self, position: LogPosition) -> None:
        found = {"cluster": position.cluster_id, "offsets": position.offsets, "topics": position.topics}
        await self.put(FACTS, _POSITION, found)

    async def stored(self, collection: str, id: str) -> Document | None:
        """Return a document of another port as it lies there, or None; it is not to be changed."""
        held: Document | None = self._changed.get((collection, id))
        return held if held is not None else await self._reader.stored(collection, id)

    def keep(self, collection: str, content: Document) -> None:
        """Write a document of another port as it is, whole; one that is there has no field that this has not."""
        self._changed[collection, content["_id"]] = content

    def write(self, collection: str, writes: Sequence[Write]) -> None:
        """Hold writes back until the end, or until something is read that they could change."""
        self._writes.setdefault(collection, []).extend(writes)

    async def finish(self, mark: str) -> None:
        """Send what was held back, with the transaction's mark."""
        await self.flush()
        if self.has_sent:
            await to_its_end(seal(self._reader.database[COMMITS], self._reader.session, mark))

    async def flush(self) -> None:
        """Send what was held back."""
        for (collection, id), held in self._changed.items():
            if held is _GONE:
                self.write(collection, [DeleteOne({"_id": id})])
            elif isinstance(held, dict):
                fields = {name: value for name, value in held.items() if name != "_id"}
                self.write(collection, [UpdateOne({"_id": id}, {"$set": fields}, upsert=True)])
            else:
                content = documents.content_of(id, orjson.loads(held))
                self.write(collection, [ReplaceOne({"_id": id}, content, upsert=True)])
        writes, self._writes, self._changed = self._writes, {}, {}
        for name, batch in writes.items():
            if batch:
                self.has_sent = True
                await to_its_end(self._reader.database[name].bulk_write(batch, session=self._reader.session))

    async def _note(self, collection: str, key: str, accept: Any, content: Document) -> bool:
        if not accept(await self.get(collection, key)):
            return False
        await self.put(collection, key, content)
        return True


class MongoStore(MongoLease):
    """A service's store in one database of a replica set."""

    def __init__(self, url: str, name: str, collections: Sequence[Collection]) -> None:
        super().__init__()
        self._url = url
        self._name = name
        self._collections = collections
        self._writing = asyncio.Lock()
        self._numbers = RowNumbers()
        self._client: AsyncIOMotorClient[Any] | None = None

    async def open(self) -> None:
        try:
            await self._open()
        except StoreUnavailable:
            await self.close()
            raise

    async def _open(self) -> None:
        with self._answering("opened"):
            waits: dict[str, Any] = {
                name: wait for name, wait in WAITS.items() if name.lower() not in self._url.lower()
            }
            self._client = AsyncIOMotorClient(self._url, tz_aware=True, **waits)
            known = set(await self._database().list_collection_names())
            for collection in (*self._collections, *map(Collection, documents.OWN)):
                if collection.name not in known:
                    with contextlib.suppress(CollectionInvalid):  # another replica was faster
                        await self._database().create_collection(collection.name)
                if indexes := documents.indexes_of(collection):
                    models = [IndexModel(keys, **options) for keys, options in indexes]
                    await self._database()[collection.name].create_indexes(models)

    async def close(self) -> None:
        async with self._writing:
            if self._client is not None:
                self._client.close()
                self._client = None

    @contextlib.asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[MongoTransaction]:
        async with self._writing, self._beside_no_renewal():
            with self._answering("written"):
                async with await self._opened().start_session() as session:
                    session.start_transaction(
                        read_concern=ReadConcern("snapshot"),
                        write_concern=_MAJORITY,
                        read_preference=ReadPreference.PRIMARY,
                    )
                    transaction = MongoTransaction(MongoReader(self._database(), session), self._numbers)
                    try:
                        yield transaction
                        mark = uuid4().hex
                        await transaction.finish(mark)
                        crash.point("mongo.written")
                    except BaseException:
                        with contextlib.suppress(PyMongoError):
                            await to_its_end(session.abort_transaction())
                        raise
                    # Also when it only read: before that, what it saw may yet be lost with the server that has it.
                    await to_its_end(self._commit(session, mark, transaction))
                    crash.point("mongo.committed")

    async def get(self, collection: str, id: str) -> Document | None:
        with self.reading() as reader:
            return await reader.get(collection, id)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        with self.reading() as reader:
            return await reader.find(collection, where, sort=sort, limit=limit, cursor=cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        with self.reading() as reader:
            return await reader.count(collection, where)

    async def outbox_pending(self, kind: str, limit: int) -> list[OutboxRow]:
        with self._answering("read"):
            question = self._database()[OUTBOX].find({"sent": False, "kind": kind}).sort([("number", ASCENDING)])
            return [documents.outbox_row(found) for found in await question.limit(limit).to_list(limit)]

    async def outbox_depth(self) -> int:
        with self._answering("read"):
            return int(await self._database()[OUTBOX].count_documents({"sent": False}))

    async def outbox_again(self, since: datetime) -> int:
        with self._answering("written"):
            wanted = {"kind": "event", "sent": True, "sent_at": {"$gte": iso(since)}}
            done = await self._database()[OUTBOX].update_many(wanted, {"$set": {"sent": False}})
        self._commits.outbox.set()
        return int(done.modified_count)

    async def outbox_sweep(self, before: datetime) -> int:
        with self._answering("written"):
            done = await self._database()[OUTBOX].delete_many({"sent": True, "sent_at": {"$lt": iso(before)}})
        return int(done.deleted_count)

    async def note_try(self, seq: int) -> None:
        with self._answering("written"):
            await self._database()[OUTBOX].update_one({"_id": documents.outbox_id(seq)}, {"$inc": {"tries": 1}})

    async def log_position(self) -> LogPosition:
        found = await self.get(FACTS, _POSITION)
        return LogPosition(found["cluster"], found["offsets"], found.get("topics", {})) if found else LogPosition()

    async def _commit(self, session: AsyncIOMotorClientSession, mark: str, transaction: MongoTransaction) -> None:
        """Commit; when it is not known whether that happened, ask again, then look for the mark."""
        unknown: PyMongoError | None = None
        for tries in range(1, COMMIT_TRIES + 1):
            try:
                await session.commit_transaction()
                break
            except PyMongoError as error:
                if unknown is None and not error.has_error_label("UnknownTransactionCommitResult"):
                    raise
                unknown = error
                await asyncio.sleep(0.1 * tries)
        else:
            if not await self._has(mark, session):
                raise StoreUnavailable(f"the store {self._name} cannot be written: {unknown}") from unknown
        if transaction.has_sent:
            self._commits.done(added_outbox=transaction.added_outbox)

    async def _has(self, mark: str, session: AsyncIOMotorClientSession) -> bool:
        """Return whether a transaction's mark is there; what is not there now will not come later.

        The look is in a new transaction of the same session: the server ends one that is still open before it
        begins the next, and its own commit waits until the majority has what it saw.
        """
        for tries in range(1, LOOKS + 1):
            try:
                async with session.start_transaction(
                    read_concern=ReadConcern("majority"),
                    write_concern=_MAJORITY,
                    read_preference=ReadPreference.PRIMARY,
                ):
                    return await self._database()[COMMITS].find_one({"_id": mark}, session=session) is not None
            except PyMongoError as error:
                last = error
                await asyncio.sleep(0.2 * tries)
        raise StoreUnavailable(
            f"the store {self._name} is gone since a commit, and whether that was written is not known: {last}"
        )

    @contextlib.contextmanager
    def reading(self) -> Iterator[MongoReader]:
        """Give the other ports of this store what they read with, beside any transaction."""
        with self._answering("read"):
            yield MongoReader(self._database(), None)

    def _database(self) -> AsyncIOMotorDatabase[Any]:
        return self._opened().get_database(
            self._name,
            read_concern=ReadConcern("majority"),
            write_concern=_MAJORITY,
            read_preference=ReadPreference.PRIMARY,
        )

    def _opened(self) -> AsyncIOMotorClient[Any]:
        if self._client is None:
            raise StoreUnavailable(f"the store {self._name} is closed")
        return self._client

    @contextlib.contextmanager
    def _answering(self, done: str) -> Iterator[None]:
        try:
            yield
        except PyMongoError as error:
            refused = error.details["writeErrors"] if isinstance(error, BulkWriteError) else []
            codes = {getattr(error, "code", None), *(each["code"] for each in refused)}
            if codes & documents.WRONG_IN_ITSELF:
                raise
            why = refused or str(error).partition(" (configured")[0]
            met = error.has_error_label("TransientTransactionError") and not isinstance(error, ConnectionFailure)
            kind = StoreBusy if met or documents.DUPLICATE in codes else StoreUnavailable
            raise kind(f"the store {self._name} cannot be {done}: {why}") from error
