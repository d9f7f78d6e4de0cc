"""`trainwright events`: `tail` reads the topics themselves, `follow` the stream of the public API.

`tail` is a plain Kafka consumer: the broker's address comes from the home of the local platform, or from
TRAINWRIGHT_KAFKA. No group is joined and nothing is committed: looking changes nothing.
"""

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainwright.cli.console import clock, complain, json_line, stop

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, ConsumerRecord

    from trainwright.client import StreamedEvent

app = typer.Typer(help="Read the events that the services publish.", no_args_is_help=True)

FromBeginning = Annotated[
    bool, typer.Option("--from-beginning", help="Begin with what there is, not with what comes.")
]


@app.command()
def tail(
    topic: Annotated[
        list[str] | None, typer.Option(help="Only this topic, e.g. `task` or its full name; may be repeated.")
    ] = None,
    from_beginning: FromBeginning = False,
    limit: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON: whole events.")] = False,
) -> None:
    """Show events as they are published, read from Kafka; Ctrl-C ends it."""
    address = _address()
    asyncio.run(_tail(address, _topics(topic), from_beginning, limit, as_json))


@app.command()
def follow(
    type: Annotated[
        list[str] | None, typer.Option(help="Only this event, e.g. `TaskStatusChanged`; may be repeated.")
    ] = None,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this topic, e.g. `task`; may be repeated. `pulse`, `metric`, `log` must be named."
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only what is about this task or worker.")] = None,
    from_beginning: FromBeginning = False,
    after: Annotated[
        str | None, typer.Option(metavar="POSITION", help="Go on after the `position` of an event in JSON.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Lines of JSON: whole events.")] = False,
) -> None:
    """Show events as they are published, over HTTP; Ctrl-C ends it."""
    from trainwright.cli.session import connect

    start = "beginning" if from_beginning and after is None else None
    shown = 0
    with connect() as client:
        for event in client.events(
            types=type or (), topics=topic or (), subject=subject, start=start, after=after
        ):
            _show_streamed(event, as_json)
            shown += event.is_event
            if shown == limit:
                return


def _show_streamed(event: "StreamedEvent", as_json: bool) -> None:
    if as_json:
        json_line({"position": event.position, "kind": event.kind, **event.data})
    elif event.is_event:
        moment = event.data.get("time", "")
        _line(moment, event.type, event.data.get("subject"), event.data.get("version"), event.data.get("attempt"))
    else:
        complain(f"{event.kind}: {event.data.get('detail', '')}")


def _line(moment: str, type: str, key: str | None, version: object, attempt: object) -> None:
    from datetime import datetime

    with contextlib.suppress(ValueError):
        moment = clock(datetime.fromisoformat(moment))
    name = type.removeprefix("trainwright.")
    words = f" version {version}" if version is not None else ""
    words += f" attempt {attempt}" if attempt is not None else ""
    typer.echo(f"{moment}  {name:<34} {key or '-'}{words}")


def _address() -> str:
    from trainwright.client.connection import find_home, read_state

    home = find_home()
    given = os.environ.get("TRAINWRIGHT_KAFKA")
    found = given or read_state(home).get("kafka")
    if not isinstance(found, str):
        where = f"the home {home}" if home else "this folder"
        stop(f"no platform runs in {where}: start it with `trainwright up`, or set TRAINWRIGHT_KAFKA")
    return found


def _topics(wanted: list[str] | None) -> list[str]:
    from trainwright.contracts.topics import TOPICS

    names = {topic.name: topic.name for topic in TOPICS} | {
        topic.name.split(".")[1]: topic.name for topic in TOPICS
    }
    unknown = [name for name in wanted or [] if name not in names]
    if unknown:
        known = ", ".join(topic.name.split(".")[1] for topic in TOPICS)
        stop(f"there is no topic {unknown[0]!r}; the topics are {known}")
    return [names[name] for name in wanted] if wanted else [topic.name for topic in TOPICS]


async def _tail(address: str, topics: list[str], from_beginning: bool, limit: int | None, as_json: bool) -> None:
    consumer = _consumer(address, topics, from_beginning)
    shown = 0
    try:
        await _start(consumer, address, topics)
        async for record in consumer:
            _show(record, as_json)
            shown += 1
            if shown == limit:
                return
    finally:
        await asyncio.wait_for(consumer.stop(), 5)


def _consumer(address: str, topics: list[str], from_beginning: bool) -> "AIOKafkaConsumer":
    import logging

    from aiokafka import AIOKafkaConsumer

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return AIOKafkaConsumer(
        *topics,
        bootstrap_servers=address,
        enable_auto_commit=False,
        auto_offset_reset="earliest" if from_beginning else "latest",
        request_timeout_ms=10_000,
    )


async def _start(consumer: "AIOKafkaConsumer", address: str, topics: list[str]) -> None:
    from aiokafka.errors import KafkaError

    try:
        await consumer.start()
    except KafkaError as error:
        stop(f"Kafka does not answer at {address} ({error}); `trainwright status` says what runs")
    if not consumer.assignment():
        stop(f"the broker at {address} has none of the topics {', '.join(topics)}; has the platform ever started?")


def _show(record: "ConsumerRecord[bytes, bytes]", as_json: bool) -> None:
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    key = record.key.decode("utf-8", "replace") if record.key is not None else None
    if as_json:
        json_line(_event(record, headers, key))
        return
    _line(_time(record), headers.get("ce_type", "?"), key, headers.get("ce_version"), headers.get("ce_attempt"))


def _event(record: "ConsumerRecord[bytes, bytes]", headers: dict[str, str], key: str | None) -> dict[str, Any]:
    import json

    event: dict[str, Any] = {name.removeprefix("ce_"): value for name, value in headers.items()}
    event |= {"topic": record.topic, "partition": record.partition, "offset": record.offset, "key": key}
    try:
        event["data"] = json.loads(record.value) if record.value is not None else None
    except ValueError:
        event["data_text"] = record.value.decode("utf-8", "replace")
    return event


def _time(record: "ConsumerRecord[bytes, bytes]") -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat()
