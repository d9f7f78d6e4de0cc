"""What `trainwright up` refuses before it starts anything: numbers of workers that are none."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainwright.cli.main import app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "two"], "'two' is neither 'auto' nor a number from 0 to 64"),
        (["--workers", "-1"], "neither 'auto' nor a number"),
        (["--workers", "65"], "neither 'auto' nor a number"),
        (["--workers", "1.5"], "neither 'auto' nor a number"),
        (["--workers", "\u00b2"], "neither 'auto' nor a number"),  # a digit to Python, and no number
        (["--workers", ""], "neither 'auto' nor a number"),
        (["--workers", "auto", "--max-workers", "0"], "greater than or equal to 1"),
        (["--workers", "auto", "--max-workers", "65"], "less than or equal to 64"),
        (["--workers", "auto", "--max-workers", "many"], "valid integer"),
        (["--workers", "2", "--max-workers", "3"], "it limits --workers auto, not --workers 2"),
        (["--port", "0"], "greater than or equal to 1"),
    ],
)
def test_up_refuses_what_is_no_number_of_workers(tmp_path: Path, words: list[str], said: str) -> None:
    home = tmp_path / "home"
    done = CliRunner().invoke(app, ["up", "--home", str(home), *words], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not home.exists()
