"""Reports: right figures, nothing loaded from elsewhere, nothing of the user's able to run, bad files left out."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from services.result.report import charts
from services.result.report.content import gather
from services.result.report.page import change, ended_page, figure, report_page
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig

NOW = "2026-01-02T03:04:05Z"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }} $\\frac$ _x"


class Page(HTMLParser):
    """Reads a page strictly enough to see what could run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bad: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            loads = name in ("src", "href", "data", "action", "xlink:href", "srcset")
            if name.startswith("on") or (loads and not str(value).startswith("#")):
                self.bad.append(f"{tag} {name}={value}")
        if tag in ("script", "iframe", "object", "embed", "link", "base", "img", "form", "foreignobject"):
            self.bad.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def job(recipe: str = "script", **fields: Any) -> dict[str, Any]:
    model = {
        "model_id": f"{recipe}/x/v1",
        "identity": f"{recipe}/x",
        "number": 1,
        "task_id": "task-0123456789ab",
        "attempt": 1,
        "task_name": "weekly",
        "recipe": recipe,
        "bundle": "a" * 64,
        "created_at": NOW,
        **fields.pop("model", {}),
    }
    return {"model": model, "task": None, "metadata": {}, **fields}


def render(document: dict[str, Any], bundle: Path) -> str:
    found = gather(document, bundle)
    return report_page(found, charts.all_drawings(found))


def write(bundle: Path, **files: Any) -> Path:
    bundle.mkdir(exist_ok=True)
    for name, content in files.items():
        target = bundle / name.replace("__", ".")
        target.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return bundle


def forecast_files(name: str = "store 1") -> dict[str, Any]:
    dates = [f"2024-01-{day:02}" for day in range(1, 21)]
    errors = {"mase": 0.5, "wape": 0.061, "naive_mase": 1.0, "naive_wape": 0.1, "points": 4}
    lines = "".join(f'"{name}",1,,2024-01-16,2024-01-{day},5,4.5,6\n' for day in range(17, 21))
    return {
        "metrics__json": {
            **errors,
            "horizon": 4,
            "frequency": "day",
            "season_length": 7,
            "season_note": "usual",
            "evaluation": "4 days ahead from one origin (2024-01-16)",
            "origins": [{"origin": "2024-01-16", "first": "2024-01-17", "last": "2024-01-20", **errors}],
            "series": [{"series": name, **errors}],
        },
        "series__json": {"dates": dates, "series": {name: [float(n) for n in range(20)]}},
        "forecasts__csv": "series,store,product,origin,date,actual,forecast,naive\n" + lines,
        "future__csv": f'series,store,product,date,forecast,naive\n"{name}",1,,2024-01-21,5,6\n',
        "history__json": {"metrics": {"loss": [[1, 0.9], [2, 0.5]], "rate": [[1, 0.1]]}},
    }


def test_a_forecasters_report_shows_its_error_beside_the_baselines(tmp_path: Path) -> None:
    text = render(job("forecast"), write(tmp_path / "b", **forecast_files()))
    page = Page(text)
    assert page.bad == []
    assert {"6.10\u00a0%", "10.00\u00a0%", "\u221239.0\u00a0%", "\u221250.0\u00a0%"} <= set(
        re.findall(r"\S+\u00a0%", page.text)
    )
    assert "4 days ahead from one origin (2024-01-16)" in page.text
    assert page.tags.count("svg") == 3  # loss, rate, one series
    assert "seasonal naive" in page.text


def test_nothing_points_outside(tmp_path: Path) -> None:
    text = render(job("forecast"), write(tmp_path / "b", **forecast_files()))
    addresses = set(re.findall(r"https?://[^\"'\s<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never loaded
    assert "@import" not in text
    assert "url(http" not in text


def test_what_people_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    files = forecast_files(HOSTILE.replace('"', '""'))
    files["series__json"] = {"dates": files["series__json"]["dates"], "series": {HOSTILE: [1.0] * 20}}
    files["metrics__json"]["series"][0]["series"] = HOSTILE
    files["metrics__json"]["season_note"] = HOSTILE
    files["history__json"] = {
        "metrics": {HOSTILE: [[1, 2.0]], f"loss {HOSTILE}": [[1, 2.0]], "_hidden": [[1, 1.0]]}
    }
    config = {"parameters": {HOSTILE: HOSTILE}, "resource_requirements": {HOSTILE: HOSTILE}}
    environment = {HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}
    document = job(
        "forecast",
        model={"task_name": HOSTILE, "description": HOSTILE, "files": {HOSTILE: {"sha256": "b" * 64, "size": 1}}},
        metadata={
            "config": config,
            "environment": environment,
            "file_hashes": {HOSTILE: HOSTILE},
            "worker_id": HOSTILE,
            "result": {"data": {"path": HOSTILE, "sha256": HOSTILE}, "environment": {HOSTILE: HOSTILE}},
        },
    )
    page = Page(render(document, write(tmp_path / "b", **files)))
    assert page.bad == []
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "49" not in page.text


@pytest.mark.parametrize(
    "name", ["metrics__json", "series__json", "forecasts__csv", "future__csv", "history__json"]
)
@pytest.mark.parametrize(
    "content", ["", "null", "[]", "{", '{"metrics": 3, "dates": 3, "series": [1]}', "a,b\n1,2\n"]
)
def test_a_file_that_is_not_what_it_should_be_costs_its_section_only(
    tmp_path: Path, name: str, content: str
) -> None:
    page = Page(render(job("forecast"), write(tmp_path / "b", **{**forecast_files(), name: content})))
    assert page.bad == []
    assert "weekly" in page.text


def test_a_run_that_left_nothing_still_has_a_report(tmp_path: Path) -> None:
    page = Page(render(job(), tmp_path / "nowhere"))
    assert "This run left no files." in page.text
    assert "svg" not in page.tags


def test_values_that_are_no_numbers_are_marked_and_do_no_harm(tmp_path: Path) -> None:
    points = [[1, "NaN"], [2, "Infinity"], [3, 1e308], [4, -1e308], [5, 0.5], [6, None], [7, "x"], [8, 1e-300]]
    bundle = write(tmp_path / "b", history__json={"metrics": {"loss": points, "other": points, "none": []}})
    found = gather(job(), bundle)
    assert "svg" in report_page(found, charts.all_drawings(found))
    assert charts.loss_png(found.losses, "$x_$").startswith(b"\x89PNG")


def test_the_loss_itself_comes_first_and_other_metrics_apart(tmp_path: Path) -> None:
    metrics = {name: [[1, 1.0]] for name in ("a_loss", "loss", "accuracy")}
    found = gather(job(), write(tmp_path / "b", history__json={"metrics": metrics}))
    assert list(found.losses) == ["loss", "a_loss"]
    assert list(found.other_curves) == ["accuracy"]


def test_of_many_metrics_the_report_says_how_many_it_does_not_draw(tmp_path: Path) -> None:
    many = {f"metric_{number}": [[1, 1.0], [2, 2.0]] for number in range(70)}
    page = Page(render(job(), write(tmp_path / "b", history__json={"metrics": many})))
    assert page.tags.count("svg") == charts.MOST_SMALL
    assert "58 more are in history.json." in page.text
    assert "Other metrics" not in page.text
    few = {"loss": [[1, 1.0]], "rate": [[1, 1.0]]}
    assert "more are in" not in render(job(), write(tmp_path / "b", history__json={"metrics": few}))


def test_a_single_step_is_not_cut_into_fractions(tmp_path: Path) -> None:
    bundle = write(tmp_path / "b", history__json={"metrics": {"loss": [[1, 0.5]]}})
    assert re.findall(r">(\d+(?:\.\d+)?)</text>", render(job(), bundle))[:3] == ["0", "1", "2"]


def test_a_failed_task_shows_its_trace_and_what_to_do() -> None:
    failure = Failure(
        failure_class=FailureClass.USER_ERROR,
        message="ZeroDivisionError: division by zero",
        traceback=f"Traceback…\n  {HOSTILE}",
        file="train.py",
        line=3,
        hint="Fix the line shown, then submit again.",
    )
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    task = TaskDocument(
        task_id="task-0123456789ab",
        version=4,
        name=HOSTILE,
        config=TaskConfig(recipe="script", parameters={"path": HOSTILE}),
        status=TaskStatus.FAILED,
        phase=TaskPhase.ENDED,
        attempt=1,
        failure=failure,
        created_at=moment,
        updated_at=moment,
    )
    page = Page(ended_page(task))
    assert page.bad == []
    for text in ("train.py:3", "Fix the line shown", "division by zero", "user error", "failed"):
        assert text in page.text


def repaired(**fields: Any) -> dict[str, Any]:
    repair = {"attempt": 1, "failure_class": "diverged", "action": "go back", "at": "2026-01-02T03:04:05Z"}
    changes = {HOSTILE: {"old": 0.1, "new": 0.05}, "rate": {"old": None, "new": HOSTILE}}
    return {**repair, "changes": changes, "resume_step": 40, "reason": f"why {HOSTILE}", **fields}


def attempt_document(number: int, **fields: Any) -> dict[str, Any]:
    known = {"task_id": "task-0123456789ab", "attempt": number, "version": 3, "worker_id": f"worker-{number:012}"}
    return {**known, "incarnation": "one", "outcome": "completed", "started_at": "2026-01-02T03:04:05Z", **fields}


def test_a_report_tells_each_attempt_and_where_curves_went_on(tmp_path: Path) -> None:
    failure = {"failure_class": "diverged", "message": f"loss is NaN {HOSTILE}"}
    attempts = [
        attempt_document(1, outcome="failed", failure=failure, final_step=57),
        attempt_document(3, resume_step=40, final_step=99),
    ]
    metadata = {"repairs": [repaired(), repaired(attempt=2, changes={}, reason="was lost; its worker is silent")]}
    bundle = write(tmp_path / "b", history__json={"metrics": {"loss": [[n, 1.0 / n] for n in range(1, 99)]}})
    document = job(model={"attempt": 3}, attempts=attempts, metadata={**metadata, "overrides": {"rate": 0.05}})
    page = Page(text := render(document, bundle))
    assert page.bad == []
    for said in (
        "Attempts and repairs",
        "failed at step 57",
        "diverged: loss is NaN",
        "go back, go on from step 40",
    ):
        assert said in page.text
    for said in ("was lost; its worker is silent", "the beginning", "completed at step 99", "rate, repaired"):
        assert said in page.text
    assert text.count("<tr><td>") >= 3
    assert "Dashed lines" in page.text
    without = Page(render(job(attempts=attempts[:1]), bundle))
    assert "Attempts and repairs" not in without.text
    assert "Dashed lines" not in without.text


@pytest.mark.parametrize("repairs", [7, [7], [{"attempt": 1}], {"a": 1}, None])
def test_repairs_of_a_bundle_that_cannot_be_read_are_left_out(tmp_path: Path, repairs: Any) -> None:
    page = Page(render(job(metadata={"repairs": repairs, "overrides": repairs}), tmp_path))
    assert "Attempts and repairs" not in page.text


def test_figures() -> None:
    assert [figure(value) for value in (None, True, 12345, 0.123456, 1e9, "x")] == [
        "–",
        "True",
        "12,345",
        "0.1235",
        "1e+09",
        "x",
    ]
    assert change(0.5, 1.0) == -0.5
    assert change(0.5, 0) is None
    assert change(float("nan"), 1.0) is None
