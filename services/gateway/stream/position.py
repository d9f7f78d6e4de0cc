"""A place in the log: for each partition the offset that is read next. Pure.

As text: ``CLUSTER@attempt:40,queue:7-0-12``. The first part tells one cluster's log from another's and may be left
out; then the topics by their nouns, each with the offsets of its partitions, from 0 on.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

from trainwright.contracts.base import nearest
from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.contracts.topics import TOPICS

Partition = tuple[str, int]
"""A topic's name and a partition's number; equal to aiokafka's ``TopicPartition``."""

EARLIEST = -1
"""The offset of a partition that is read from the first record there is."""
LARGEST = 2**63 - 1

_SHAPE = re.compile(r"(?:([0-9a-z]{1,40})@)?((?:[a-z0-9.]+:[0-9-]+)(?:,[a-z0-9.]+:[0-9-]+)*)?")
NOUNS = {topic.name.removeprefix("trainwright.").removesuffix(".v1"): topic.name for topic in TOPICS}
"""Topics by the short name that people and positions use."""
SHORT = {name: noun for noun, name in NOUNS.items()}


class Position:
    """Offsets by partition, and the cluster that they belong to; moves on as its owner reads."""

    def __init__(self, cluster: str = "", offsets: Mapping[Partition, int] | None = None) -> None:
        self.cluster = cluster
        self._offsets: dict[str, dict[int, int]] = {}
        self._texts: dict[str, str] = {}
        for partition, offset in (offsets or {}).items():
            self.set(partition, offset)

    def get(self, partition: Partition) -> int | None:
        """Return the offset to read next, None for a partition that is not named."""
        return self._offsets.get(partition[0], {}).get(partition[1])

    def set(self, partition: Partition, offset: int) -> None:
        """Put one partition's offset."""
        topic, number = partition
        self._offsets.setdefault(topic, {})[number] = offset
        self._texts.pop(topic, None)

    def of(self, topics: Iterable[str]) -> dict[Partition, int]:
        """Return the offsets of some topics."""
        return {(topic, number): at for topic in topics for number, at in self._offsets.get(topic, {}).items()}

    def copy(self) -> "Position":
        """Return a position of its own that stands here."""
        return Position(self.cluster, self.of(self._offsets))

    def __str__(self) -> str:
        for topic, numbers in self._offsets.items():
            if topic not in self._texts:
                offsets = (max(numbers.get(number, 0), 0) for number in range(max(numbers) + 1))
                self._texts[topic] = f"{SHORT[topic]}:{'-'.join(map(str, offsets))}"
        places = ",".join(self._texts[topic] for topic in sorted(self._texts))
        return f"{self.cluster}@{places}" if self.cluster else places


def parse(text: str, field: str = "after") -> Position:
    """Return the position that a text stands for.

    Raises:
        InvalidInput: It is none; the error names the field.
    """
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise _wrong(field, f"{text[:80]!r} is no position; take the `id` of an event as it is")
    position = Position(found[1] or "")
    for place in (found[2] or "").split(","):
        noun, _, numbers = place.partition(":")
        if noun and noun not in NOUNS:
            raise _wrong(field, f"there is no topic {noun!r}{nearest(noun, NOUNS)}; there are {', '.join(NOUNS)}")
        for number, offset in enumerate(numbers.split("-") if noun else ()):
            if not offset or int(offset) > LARGEST:
                raise _wrong(field, f"{place[:80]!r} has an offset that is none")
            position.set((NOUNS[noun], number), int(offset))
    return position


def fingerprint(cluster_id: str) -> str:
    """Return how a position names a cluster."""
    return hashlib.sha256(cluster_id.encode()).hexdigest()[:8]


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", [FieldError(path=field, message=message)])
