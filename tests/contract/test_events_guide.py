"""The guide to the events tells what the topic table has, and shows the example that is tested."""

import re
from pathlib import Path

from tests.contract.test_asyncapi import DOCUMENT

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "events.md").read_text()


def test_the_table_of_topics_is_asyncapis() -> None:
    rows = {
        row[0]: row[1:] for row in re.findall(r"^\| `(\S+)` \| (\w+) \| (.+?) \| (.+?) \|$", GUIDE, re.MULTILINE)
    }
    channels = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}
    assert rows.keys() == channels.keys()
    for address, (key, says, kept) in rows.items():
        channel = channels[address]
        assert channel["description"].startswith(f"Key: `{key}`")
        assert says == channel["title"]
        time, _, size = kept.partition(", ")
        assert channel["description"].endswith(f"Kept {time}.")
        cap = channel["bindings"]["kafka"]["topicConfiguration"]["retention.bytes"]
        assert size == ("" if cap == -1 else f"{cap // 2**30} GiB")


def test_the_examples_are_those_that_run() -> None:
    subscribe, _, receive = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert subscribe == (ROOT / "examples" / "subscribe.py").read_text()
    assert receive == (ROOT / "examples" / "receive_webhooks.py").read_text()
