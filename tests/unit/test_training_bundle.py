"""The bundle holds what the run left, a history of bounded size, and what is needed to run it again."""

import json
import math
from pathlib import Path

import pytest

from trainwright.training import bundle as module
from trainwright.training import layout
from trainwright.training.bundle import (
    MAX_POINTS,
    bundle_files,
    downsample,
    git_commit,
    write_history,
    write_metadata,
)
from trainwright.training.spool import SpoolWriter, encode_record


def test_history_keeps_ends_spikes_and_what_is_not_finite(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / layout.SPOOL)
    for seq in range(1, 20_001):
        value = 50.0 if seq == 7_777 else float("nan") if seq == 9_000 else 1.0 / seq
        writer.append([encode_record((seq, 0.0, seq, None, {"loss": value, "flat": 1.0}))])
    writer.close()
    write_history(tmp_path)
    metrics = json.loads((tmp_path / "bundle" / "history.json").read_text())["metrics"]
    assert len(metrics["loss"]) <= MAX_POINTS
    assert len(metrics["flat"]) <= MAX_POINTS
    assert metrics["loss"][0] == [1, 1.0]
    assert metrics["loss"][-1] == [20_000, 1.0 / 20_000]
    assert [7_777, 50.0] in metrics["loss"]
    assert [9_000, "NaN"] in metrics["loss"]


def test_a_short_history_is_kept_as_it_is_and_none_is_an_empty_one(tmp_path: Path) -> None:
    points = [(step, float(step)) for step in range(MAX_POINTS)]
    assert downsample(points, MAX_POINTS) == points
    write_history(tmp_path)
    assert json.loads((tmp_path / "bundle" / "history.json").read_text()) == {"metrics": {}}


def test_a_curve_of_nothing_but_nan_stays_within_the_limit() -> None:
    assert len(downsample([(step, math.nan) for step in range(50_000)], MAX_POINTS)) <= MAX_POINTS


def test_metadata_says_what_ran_where_and_what_the_recipe_found(tmp_path: Path) -> None:
    layout.write_json(tmp_path / layout.RESULT, {"wape": 0.08})
    written = write_metadata(tmp_path, {"task_id": "task-1", "attempt": 2})
    assert written == json.loads((tmp_path / "bundle" / "metadata.json").read_text())
    assert written["task_id"] == "task-1"
    assert written["result"] == {"wape": 0.08}
    assert "numpy" in written["environment"]["packages"]
    assert written["environment"]["python"].startswith("3.")


def test_links_and_half_written_files_are_not_part_of_a_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "model").mkdir(parents=True)
    (bundle / "model" / "weights.bin").write_bytes(b"123")
    (bundle / ".metadata.json.77.tmp").write_text("{")
    (tmp_path / "secret").write_text("outside")
    (bundle / "link").symlink_to(tmp_path / "secret")
    assert bundle_files(tmp_path) == {"model/weights.bin": bundle / "model" / "weights.bin"}


@pytest.mark.parametrize("metrics", [[1, 2], {"loss": 3}, {"loss": [["first", 1.0]]}])
def test_what_a_script_wrote_in_place_of_the_history_it_goes_on_from_is_none(
    tmp_path: Path, metrics: object
) -> None:
    layout.write_json(tmp_path / layout.SPEC, {"resume": {"step": 5, "folder": "before"}})
    (tmp_path / "before").mkdir()
    layout.write_json(tmp_path / "before" / "history.json", {"metrics": metrics})
    writer = SpoolWriter(tmp_path / layout.SPOOL)
    writer.append([encode_record((1, 0.0, 6, None, {"loss": 0.5}))])
    writer.close()
    write_history(tmp_path)
    assert json.loads((tmp_path / "bundle" / "history.json").read_text()) == {"metrics": {"loss": [[6, 0.5]]}}


def test_without_git_a_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path / "src") is None


def test_packages_that_are_not_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGES", ("numpy", "nothing-of-this-name"))
    assert list(module.environment()["packages"]) == ["numpy"]
