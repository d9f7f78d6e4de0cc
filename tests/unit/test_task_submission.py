"""What a document may say of failures, and what its recipe adds to it."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.task.settings import TaskSettings
from services.task.submission import resolve
from trainwright.contracts.errors import InvalidInput
from trainwright.contracts.task_config import CreateTask, RepairRole, TaskConfig
from trainwright.runtime.http import field_error
from trainwright.storage.directory import DirectoryBlobs

SALES = {"path": "/data/sales.csv", "time": "Date", "target": "Sales"}


async def resolved(tmp_path: Path, **fields: Any) -> TaskConfig:
    overrides = {name: fields.pop(name) for name in ("timeout", "max_retries") if name in fields}
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    config = {"recipe": "script", "parameters": {"path": str(script), "batch_size": 8, "lr": 0.1}, **fields}
    if config["recipe"] == "forecast":
        config |= {"parameters": {}, "data": SALES}
    request = CreateTask.model_validate({"config": config, **overrides})
    assert request.config is not None
    return await resolve(
        request.config, request, blobs=DirectoryBlobs(tmp_path / "blobs"), settings=TaskSettings()
    )


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        (
            {"repairable": {"micro_batch": "batchsize"}},
            "config.repairable.micro_batch",
            "the document has no parameter 'batchsize'; did you mean 'batch_size'?",
        ),
        (
            {"repairable": {"micro_batch": "batch_size", "batch": "batch_size"}},
            "config.repairable.micro_batch",
            "'batch_size' is named as batch too; every role needs a parameter of its own",
        ),
        (
            {"recipe": "forecast", "repairable": {"accumulate": "horizon"}},
            "config.repairable.accumulate",
            "the recipe 'forecast' says itself what a repair may change",
        ),
        (
            {"recipe": "forecast", "repairable": {"learning_rate": "weight_decay"}},
            "config.repairable.learning_rate",
            "learning_rate: learning_rate",
        ),
        (
            {"retry": {"user_error": {"max": 2}}},
            "config.retry.user_error",
            "user_error is never tried again: the same code fails the same way",
        ),
        ({"retry": {"timed_out": {"delay": "1m"}}}, "config.retry.timed_out", "say `on_timeout: pause`"),
        ({"retry_on": ["hung", "user_error"]}, "config.retry_on.1", "user_error is never tried again"),
    ],
)
async def test_what_no_repair_can_follow_is_refused(
    tmp_path: Path, fields: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await resolved(tmp_path, **fields)
    found = {error.path: error.message for error in refused.value.errors}
    assert said in found[path]


async def test_an_unknown_recipe_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        await resolved(tmp_path, recipe="scrip", repairable={"batch": "batch_size"})
    assert [error.path for error in refused.value.errors] == ["config.recipe"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.py", "No such file"), ("folder", "it is a folder"), ("large.py", "it has more than 10 bytes")],
)
async def test_a_script_that_cannot_be_read_here_is_refused_with_the_reason(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large.py").write_text("print('hello')")
    path, blobs = str(tmp_path / name), DirectoryBlobs(tmp_path / "blobs")
    request = CreateTask.model_validate({"config": {"recipe": "script", "parameters": {"path": path}}})
    assert request.config is not None
    with pytest.raises(InvalidInput) as refused:
        await resolve(request.config, request, blobs=blobs, settings=TaskSettings(script_limit=10))
    (error,) = refused.value.errors
    assert error.path == "config.parameters.path"
    assert error.message.startswith(f"{path!r} cannot be read on the server: {said}")
    assert [one async for one in blobs.stored()] == []


async def test_the_document_says_all_that_may_be_changed(tmp_path: Path) -> None:
    script = await resolved(tmp_path, repairable={"learning_rate": "lr"}, timeout="2h", max_retries=1)
    assert script.repairable == {RepairRole.LEARNING_RATE: "lr"}
    assert (script.timeout, script.max_retries) == (7200.0, 1)
    forecast = await resolved(tmp_path, recipe="forecast", repairable={"learning_rate": "learning_rate"})
    assert forecast.repairable[RepairRole.MICRO_BATCH] == "micro_batch"
    assert set(forecast.repairable.values()) <= set(forecast.parameters)
    again = await resolved(tmp_path, recipe="forecast", repairable=forecast.repairable)
    assert again.repairable == forecast.repairable, "a resolved document can be submitted again"


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        (
            {"retry_on": ["out_of_memroy"]},
            "config.retry_on.0",
            "did you mean 'out_of_memory'? (got 'out_of_memroy')",
        ),
        ({"retry": {"hungg": {"max": 1}}}, "config.retry.hungg", "did you mean 'hung'?"),
        ({"retry": {"hung": {"maxx": 1}}}, "config.retry.hung.maxx", "unknown key 'maxx'; did you mean 'max'?"),
        ({"repairable": {"microbatch": "b"}}, "config.repairable.microbatch", "did you mean 'micro_batch'?"),
        ({"on_timeout": "paus"}, "config.on_timeout", "did you mean 'pause'?"),
        ({"timeout": "soon"}, "config.timeout", "write seconds, or 90s, 15m, 2h, 1d"),
        ({"timeout": "9999999d"}, "config.timeout", "less than or equal to 315360000"),
        ({"retry": {"unknown": {"delay": "9999999d"}}}, "config.retry.unknown.delay", "equal to 315360000"),
    ],
)
def test_a_wrong_word_is_told_by_its_path_with_the_nearest(fields: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        CreateTask.model_validate({"config": {"recipe": "script", **fields}})
    (error,) = [field_error(detail) for detail in refused.value.errors()]
    assert error.path == path
    assert said in error.message
