"""Which attempt leaves a model version, what its number counts for, and how it is addressed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.result.domain import as_said, identity_of, leaves_version, new_version, parse_address, slug
from trainwright.contracts.attempt import AttemptDocument, BundleFile, BundleManifest, Outcome
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SHA = "a" * 64


def task(**fields: Any) -> TaskDocument:
    known: dict[str, Any] = {
        "task_id": "task-0123456789ab",
        "version": 7,
        "name": "weekly",
        "config": TaskConfig(recipe="forecast"),
        "status": TaskStatus.COMPLETED,
        "phase": TaskPhase.ENDED,
        "attempt": 2,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return TaskDocument(**{**known, **fields})


def attempt(**fields: Any) -> AttemptDocument:
    known: dict[str, Any] = {
        "task_id": "task-0123456789ab",
        "attempt": 2,
        "version": 2,
        "worker_id": "worker-0123456789ab",
        "incarnation": "one",
        "outcome": Outcome.COMPLETED,
        "bundle": SHA,
        "latest_metrics": {"loss": 0.5},
    }
    return AttemptDocument(**{**known, **fields})


def manifest(**result: Any) -> BundleManifest:
    return BundleManifest(files={"a.txt": BundleFile(sha256=SHA, size=1)}, metadata={"result": result})


@pytest.mark.parametrize(
    ("of_task", "of_attempt", "leaves"),
    [
        ({}, {}, True),
        ({"status": TaskStatus.RUNNING}, {}, False),
        ({"status": TaskStatus.FAILED}, {}, False),
        ({"attempt": 3}, {}, False),  # replaced: a fenced attempt that completes nevertheless
        ({}, {"attempt": 3}, False),
        ({}, {"outcome": Outcome.FAILED}, False),
        ({}, {"bundle": None}, False),
    ],
)
def test_only_the_attempt_that_completed_the_task_leaves_a_version(
    of_task: dict[str, Any], of_attempt: dict[str, Any], leaves: bool
) -> None:
    assert leaves_version(task(**of_task), attempt(**of_attempt)) is leaves
    assert not leaves_version(None, attempt())
    assert not leaves_version(task(), None)


def test_a_recipe_says_what_its_versions_count_for_and_a_script_cannot() -> None:
    claimed = manifest(identity="store/S001_all/tcn")
    assert identity_of(task(), claimed) == "store/S001_all/tcn"
    assert identity_of(task(config=TaskConfig(recipe="script")), claimed) == "script/weekly"


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "one",
        "../../etc",
        "a//b",
        "/a/b",
        "a/b/v3",
        "a/.hidden",
        "a/b c",
        "a/é",
        7,
        None,
        "/".join("abcdefghi"),
    ],
)
def test_an_identity_that_is_no_clean_path_is_not_believed(claim: Any) -> None:
    assert identity_of(task(), manifest(identity=claim)) == "forecast/weekly"


def test_names_become_one_segment_each_and_stay_apart() -> None:
    names = ["plain", "Plain", "a b", "a/b", "a-b", "日本", "中国", "v3", "..", ".x", "", "x" * 200, "x" * 201]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert slugs[0] == "plain"
    assert all("/" not in one and one.isascii() and not one.startswith(".") and one != "v3" for one in slugs)


def test_a_version_carries_the_recipes_figures_or_the_last_values_of_a_script() -> None:
    figures = {"mase": 0.8, "baseline": {"mase": 1.0}}
    model = new_version(task(), attempt(), manifest(metrics=figures, description="TCN"), number=3, now=NOW)
    assert (model.model_id, model.description, model.metrics) == ("forecast/weekly/v3", "TCN", figures)
    bare = new_version(task(), attempt(), BundleManifest(files={}), number=1, now=NOW)
    assert bare.metrics == {"loss": 0.5}


def test_an_event_lists_a_bounded_number_of_files() -> None:
    many = BundleManifest(files={f"{n:04}.bin": BundleFile(sha256=SHA, size=n) for n in range(5000)})
    model = new_version(task(), attempt(), many, number=1, now=NOW)
    assert len(model.files) == 5000
    assert len(as_said(model).files) == 300
    assert len(as_said(model).model_dump_json()) < 64 * 1024


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("store/S001_all/tcn/v3", ("store/S001_all/tcn/v3", None, False)),
        ("store/S001_all/tcn/v3/files", ("store/S001_all/tcn/v3", None, True)),
        ("script/x/v12/files/model.json", ("script/x/v12", "model.json", True)),
        ("script/x/v12/files/a/files/b", ("script/x/v12", "a/files/b", True)),
        ("script/files/v3", ("script/files/v3", None, False)),
        ("script/files/v3/files/v4", ("script/files/v3", "v4", True)),
        ("script/x", ("script/x", None, False)),
        ("script/x/v0", ("script/x/v0", None, False)),
        ("files", ("files", None, False)),
    ],
)
def test_addresses(path: str, expected: tuple[str, str | None, bool]) -> None:
    assert parse_address(path) == expected
