"""What no file may hold: an address that packages come from, or a path of somebody's machine."""

import re

import pytest

from tests.house.house import ROOT, tracked_files

# Written in pieces, so that this file does not break its own rule.
FORBIDDEN = re.compile(
    "|".join(
        (
            r"(?:files\.)?python" + r"hosted\.org",
            r"pypi" + r"\.(?:org|io)",
            r"repo1?\.maven" + r"\.(?:org|apache\.org)",
            r"registry\." + r"npmjs",
            r"proxy\." + r"golang",
            r"download\." + r"pytorch",
            r"--(?:extra-)?index-url[ =]" + r"\S*://",
            r"(?<![\w.>}])/(?:work|root)/" + r"\w+",
        )
    )
)


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN.finditer(text)]
    assert found == []


@pytest.mark.parametrize("line", ["https://pypi" + ".org/simple", "cd /work" + "/somewhere", "/root" + "/x"])
def test_the_rule_sees_what_it_forbids(line: str) -> None:
    assert FORBIDDEN.search(line)
