"""When to say again what nobody answered: the log may have lost it."""


class Reminders:
    """Tells who is to hear something again: after 1, 2, 4 … rounds of silence, then every 60.

    Rounds are counted, not time: a clock that is set back would keep it silent for as long.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, tuple[int, int]] = {}
        """By subject: the version that waits, and in how many rounds it was seen waiting."""

    def begin(self) -> None:
        """Begin a round."""
        self._before, self._waiting = self._waiting, {}

    def is_due(self, subject: str, version: int) -> bool:
        """Note that a version waits in this round, once; return whether to say it again."""
        if subject in self._waiting:
            return False
        known, rounds = self._before.get(subject, (version, 0))
        self._waiting[subject] = version, rounds + 1 if known == version else 1
        if known != version or rounds == 0:
            return False
        return rounds % 60 == 0 if rounds >= 60 else rounds.bit_count() == 1
