"""The README's commands exist: every `trainwright …` and every `make …` in its code."""

import re
from pathlib import Path

import pytest
import typer.main

from trainwright.cli.main import app
from trainwright.cli.session import SHARED_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text()
CODE = "\n".join(re.findall(r"(?ms)^```sh\n(.*?)^```", TEXT) + re.findall(r"`([^`\n]+)`", TEXT))
TRAINWRIGHT = sorted(set(re.findall(r"(?m)^(?:\$ )?trainwright ([^#\n|]+)", CODE)))
MAKE = sorted(set(re.findall(r"(?m)^make (\w+)", CODE)))


def problem(words: list[str]) -> str | None:
    """Return what is wrong with the words after `trainwright`: no such command, or no such option."""
    command = typer.main.get_command(app)
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        found = command.commands.get(words[0])
        if found is None:
            return f"no command {words[0]!r}"
        command, words = found, words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {*SHARED_OPTIONS, "--help"}
    ours = words[: words.index("--")] if "--" in words else words
    return next((f"no option {word!r}" for word in ours if word.startswith("-") and word not in known), None)


def test_the_readme_names_commands_at_all() -> None:
    assert len(TRAINWRIGHT) > 10
    assert {"demo", "test", "setup"} <= set(MAKE)


@pytest.mark.parametrize("line", TRAINWRIGHT)
def test_a_command_of_the_readme_exists(line: str) -> None:
    assert problem(line.split()) is None


@pytest.mark.parametrize("target", MAKE)
def test_a_target_of_the_readme_exists(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("line", ["tsk list", "task lst", "task list --frobnicate"])
def test_the_rule_sees_what_does_not_exist(line: str) -> None:
    assert problem(line.split())
