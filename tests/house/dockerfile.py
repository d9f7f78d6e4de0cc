"""The Dockerfile, stage by stage: enough of its grammar for the rules, no more."""

import re
from dataclasses import dataclass, field

from tests.house.house import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it stands on, and its instructions."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def stages() -> list[Stage]:
    """Return the stages in their order."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, words = line.partition(" ")
        if name == "FROM":
            base, _, stage = words.partition(" AS ")
            found.append(Stage(stage, base))
        elif found:
            found[-1].instructions.append((name, words.strip()))
    return found


def instructions(target: str) -> list[tuple[str, str]]:
    """Return all instructions of a target, those of the stages below it first."""
    by_name = {stage.name: stage for stage in stages()}
    stage = by_name[target]
    below = instructions(stage.base) if stage.base in by_name else []
    return [*below, *stage.instructions]
