"""Subscribe to what happens, from the beginning on: a plain Kafka consumer, nothing of Trainwright.

`python examples/subscribe.py 127.0.0.1:9092`; `trainwright status` shows the address. Ctrl-C ends it.
"""

import asyncio
import contextlib
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(address: str) -> None:
    """Print each news of tasks and models once, whatever is delivered twice or late."""
    topics = ("trainwright.task.v1", "trainwright.result.v1")
    newest: dict[tuple[str, str], int] = {}
    async with AIOKafkaConsumer(*topics, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        async for record in consumer:
            headers = {name: value.decode() for name, value in record.headers}
            (document,) = json.loads(record.value).values()
            subject = (record.topic, document.get("model_id") or document["task_id"])
            if int(headers["ce_version"]) <= newest.get(subject, 0):
                continue
            newest[subject] = int(headers["ce_version"])
            says = document.get("status") or document["metrics"]
            print(headers["ce_time"], headers["ce_type"].split(".")[2], subject[1], says, flush=True)


with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(sys.argv[1]))
