"""The reader of the stream of events, in this process, on a broker whose connections tests cut and hold back."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaConnectionError

from services.gateway.stream.events import Said, filter_of
from services.gateway.stream.feed import Feed
from services.gateway.stream.history import Gap, History
from services.gateway.stream.position import EARLIEST, Position
from services.gateway.stream.subscription import Start, Subscription
from tests.events_desk import let_go
from tests.faults.proxy import BehindProxy, TcpProxy
from tests.harness import as_record, eventually
from tests.integration.runtime_parts import tell_raw, with_header_name
from tests.runtime_kit import task_event
from trainwright.contracts.topics import TASK
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings

FETCH, LIST_OFFSETS = (1).to_bytes(2), (2).to_bytes(2)
"""What a request of Kafka's protocol for records begins with, after its length."""


class Holding(TcpProxy):
    """A proxy that can hold back what a client asks, until it is told to let go."""

    def __init__(self, port: int, server: int) -> None:
        super().__init__(port, server)
        self.holds: bytes | None = None
        """The kind of request that is held back."""
        self.held = threading.Event()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            while self.holds is not None and data[4:6] == self.holds:
                self.held.set()
                await asyncio.sleep(0.01)
            writer.write(data)
            await writer.drain()


class Place:
    """A broker, the proxy before it, and how a gateway in this process reaches it."""

    def __init__(self, broker: KafkaProcess, proxy: Holding) -> None:
        self.broker, self.proxy = broker, proxy
        self.address = f"127.0.0.1:{proxy.port}"
        self.kafka = Kafka(RuntimeSettings(kafka=self.address))
        self.number = 0

    async def say(self, count: int = 1) -> list[int]:
        """Publish events; return their versions."""
        first, self.number = self.number + 1, self.number + count
        async with AIOKafkaProducer(bootstrap_servers=self.address) as producer:
            for number in range(first, self.number + 1):
                await producer.send_and_wait(**as_record(task_event(1, number), SystemClock(), "tests"))
        return list(range(first, self.number + 1))

    async def end(self) -> int:
        """Return where the log ends."""
        partition = TopicPartition(TASK.name, 0)
        return (await self.kafka.end_offsets([partition]))[partition]

    async def delete_before(self, offset: int) -> None:
        """Have the broker delete what is older."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(TASK.name, 0): RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()

    @asynccontextmanager
    async def feed(self) -> AsyncIterator[Feed]:
        """Have a feed whose reader runs, and ends with the block."""
        feed = Feed(self.kafka, SystemClock())
        with feed.listening({TASK.name}):
            await eventually(lambda: feed.connected, within=30, what="the reader")
            yield feed
        await let_go(feed)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    port, controller_port, told = free_ports(3)
    folder = tmp_path_factory.mktemp("kafka")
    proxy = Holding(told, port)
    with proxy, BehindProxy(folder, port=port, controller_port=controller_port, told=told) as broker:
        yield Place(broker, proxy)


@pytest.fixture
async def place(started: Place) -> AsyncIterator[Place]:
    started.kafka.bootstrap = started.address
    await started.kafka.ensure_topics()
    yield started
    started.proxy.refuses, started.proxy.holds = False, None


class Listener:
    """Somebody who hears events of tasks from a start on, and what was heard so far."""

    def __init__(self, feed: Feed, start: Start) -> None:
        self.subscription = Subscription(feed, filter_of([], ["task"]), start)
        self.heard: list[int | str] = []
        """Versions of events; `gap …` and `waiting` in between."""

    async def listen(self, until: Callable[[], bool]) -> None:
        with self.subscription.listening():
            async with asyncio.timeout(80):
                while not until():
                    batch = await self.subscription.next(0.5)
                    self.heard += ["waiting"] * batch.waiting
                    self.heard += [_in_words(what) for _, what in batch.entries]

    async def hear(self, *wanted: int | str) -> None:
        """Listen until the last of these was heard; check that nothing else was."""
        await self.listen(lambda: wanted[-1] in self.heard)
        assert self.heard == list(wanted)


def _in_words(what: Said | Gap) -> int | str:
    if isinstance(what, Gap):
        return f"gap {what.start}-{what.end}"
    assert what.envelope is not None
    assert what.envelope.version is not None
    return what.envelope.version


async def test_records_that_the_client_cannot_even_read_hold_up_no_listener(place: Place) -> None:
    """Live, and again in the history: the poll fails as a whole, and what stands around them is heard."""
    async with place.feed() as feed:
        start = Position(feed.cluster, {(TASK.name, 0): await place.end()})
        live = Listener(feed, start)
        before = await place.say(2)
        await live.hear(*before)
        await tell_raw(place.broker, with_header_name(b"\xff\xfe\xff"))
        await tell_raw(place.broker, with_header_name(b"\xff"))
        after = await place.say(2)
        await live.hear(*before, *after)
    async with place.feed() as feed:
        later = Listener(feed, start)
        await later.hear(*before, *after)
        assert str(later.subscription.position) == str(live.subscription.position)


async def test_what_was_deleted_while_the_reader_was_away_is_a_gap_and_the_rest_is_heard(place: Place) -> None:
    async with place.feed() as feed:
        listener = Listener(feed, None)
        await listener.listen(lambda: listener.subscription.position.get((TASK.name, 0)) is not None)
        first = await place.say()
        await listener.hear(*first)
        at = await place.end()
        place.kafka.bootstrap = f"127.0.0.1:{free_ports(1)[0]}"
        place.proxy.refuses = True
        place.proxy.cut()
        await eventually(lambda: not feed.connected, within=30, what="the reader to notice")
        place.proxy.refuses = False
        missed = await place.say(4)
        await place.delete_before(at + 2)
        place.kafka.bootstrap = place.address
        await listener.listen(lambda: missed[-1] in listener.heard)
        heard = [one for one in listener.heard if one != "waiting"]
        assert heard == [*first, f"gap {at}-{at + 2}", *missed[2:]]


async def test_a_client_that_breaks_for_whatever_reason_is_built_anew(place: Place) -> None:
    place.kafka.bootstrap = "127.0.0.1:no-port"  # no error of Kafka's
    feed = Feed(place.kafka, SystemClock())
    listener = Listener(feed, None)  # the same one all the time: a newcomer would have it built, too
    listening = asyncio.create_task(listener.listen(lambda: len(listener.heard) > 1))
    await eventually(lambda: listener.heard == ["waiting"], within=20, what="the listener to be told")
    place.kafka.bootstrap = place.address
    here = listener.subscription.position
    await eventually(lambda: listener.subscription.position is not here, within=20, what="the listener's start")
    said = await place.say()
    await listening
    assert listener.heard == ["waiting", *said]
    await let_go(feed)


@pytest.mark.parametrize("start", ["position", "moment"])
async def test_the_history_may_be_out_of_reach_while_the_live_end_is_not(place: Place, start: str) -> None:
    """It has a client of its own."""
    moment, at = datetime.now(UTC), await place.end()
    said = await place.say(3)
    async with place.feed() as feed:
        begin = Position(feed.cluster, {(TASK.name, 0): at}) if start == "position" else moment
        listener = Listener(feed, begin)
        place.proxy.refuses = True
        await listener.listen(lambda: listener.heard == ["waiting"])
        assert feed.connected
        place.proxy.refuses = False
        await listener.hear("waiting", *said)


async def test_a_beginning_that_moves_while_a_page_is_read_is_told_by_the_next_one(place: Place) -> None:
    at = await place.end()
    await place.say(4)
    history, position = History(place.kafka), {(TASK.name, 0): at}
    place.proxy.holds = FETCH
    place.proxy.held.clear()
    reading = asyncio.create_task(history.page(position))
    await asyncio.to_thread(place.proxy.held.wait, 80)
    await place.delete_before(at + 3)
    place.proxy.holds = None
    with pytest.raises(KafkaConnectionError, match="beginning moved"):
        await reading
    assert history._consumer is None, "what such a page leaves in the client is not known"
    page = await history.page(position)
    assert page.gaps == [Gap("expired", TASK.name, 0, start=at, end=at + 3)]
    assert [said.offset for said in page.records] == [at + 3]
    assert page.moved == {(TASK.name, 0): at + 3}
    assert (await history.page({(TASK.name, 0): EARLIEST})).gaps == []
    place.proxy.holds = LIST_OFFSETS
    asking = asyncio.create_task(history.at(position, datetime.now(UTC)))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert history._consumer is None, "nor what such a question leaves there"
    place.proxy.holds = None
    await history.close()
