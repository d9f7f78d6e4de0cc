"""What a campaign has injected and found, kept in a file from round to round, and shown as a table."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Report:
    """Counts of what was done, the longest of what took time, and every promise that did not hold."""

    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    longests: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str, by: int = 1) -> None:
        """Count something that was done."""
        self.counts[what] += by

    def longest(self, what: str, seconds: float) -> None:
        """Note how long something took, if that is the longest so far."""
        self.longests[what] = max(seconds, self.longests.get(what, 0.0))

    def add(self, other: "Report") -> None:
        """Take over what another round found."""
        self.rounds += 1
        self.counts.update(other.counts)
        for what, seconds in other.longests.items():
            self.longest(what, seconds)
        self.wrong += other.wrong

    def table(self) -> str:
        """Return it as Markdown."""
        rows = [f"| {what} | {number:,} |" for what, number in sorted(self.counts.items())]
        rows += [f"| {what}, at most | {seconds:.1f} s |" for what, seconds in sorted(self.longests.items())]
        rows.append(f"| promises that did not hold | {len(self.wrong)} |")
        return "\n".join(["| injected or seen | |", "|---|---|", *rows, *self.wrong]) + "\n"

    def write(self, path: Path) -> None:
        """Keep it; a reader, or a kill, sees the old one or the new one."""
        new = path.with_suffix(".new")
        kept = {"rounds": self.rounds, "counts": self.counts, "longests": self.longests, "wrong": self.wrong}
        new.write_text(json.dumps(kept, indent=1))
        os.replace(new, path)
        path.with_suffix(".md").write_text(self.table())

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Return what a file keeps; nothing when there is none."""
        if not path.exists():
            return cls()
        found = json.loads(path.read_text())
        return cls(found["rounds"], Counter(found["counts"]), found["longests"], found["wrong"])
