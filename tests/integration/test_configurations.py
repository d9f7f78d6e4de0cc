"""Stored configurations over HTTP and Kafka: every change a version, texts exactly as written, nothing lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.configuration import ConfigurationEvent

TEXT = """\
# weekly sales
recipe: forecast   # built in
parameters:
  model: tcn       # the only one so far
  horizon: 8
  learning_rate: 4e-3
data: {path: /data/sales.csv, time: Date, target: Sales}
labels:
  team: sales
"""
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with services(["task"], kafka, tmp_path_factory.mktemp("configs")) as process:
        yield process


@pytest.fixture
async def api(process: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    await process.ready()
    async with process.client() as client:
        yield client


@pytest.fixture
async def bus(kafka: str, api: httpx.AsyncClient) -> AsyncIterator[Bus]:
    async with listening(kafka) as bus:
        yield bus


async def created(api: httpx.AsyncClient, text: str = TEXT, **params: str) -> dict[str, Any]:
    answer = await api.post("/configs", content=text.encode(), headers=YAML, params=params)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def problems(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {one["path"]: one["message"] for one in answer.json()["errors"]}


async def test_every_change_is_a_version_that_others_hear_of(api: httpx.AsyncClient, bus: Bus) -> None:
    first = await created(api, name="walmart", comment="first try")
    config_id = first["config_id"]
    assert (first["version"], first["name"], first["recipe"], first["actor"]) == (
        1,
        "walmart",
        "forecast",
        "tests",
    )
    assert first["config"]["parameters"]["learning_rate"] == 0.004

    changes = {"changes": {"parameters": {"horizon": 12}, "labels": {"team": None, "why": "yes"}}}
    second = await api.patch(
        f"/configs/{config_id}", json={**changes, "comment": "a quarter"}, headers={"If-Match": '"1"'}
    )
    assert (second.status_code, second.json()["version"], second.headers["etag"]) == (200, 2, '"2"')
    late = await api.patch(f"/configs/{config_id}", json=changes, headers={"If-Match": '"1"'})
    assert (late.status_code, late.json()["code"]) == (409, "version_conflict")
    assert f"/configs/{config_id}/diff?from=1&to=2" in late.json()["detail"]
    same = await api.patch(f"/configs/{config_id}", json=changes)
    assert same.json()["version"] == 2, "nothing differs: no version is made"

    text = (await api.get(f"/configs/{config_id}", headers={"Accept": "application/yaml"})).text
    assert "# weekly sales" in text
    assert "model: tcn       # the only one so far\n  horizon: 12\n  learning_rate: 4e-3\n" in text
    diff = (await api.get(f"/configs/{config_id}/diff", params={"from": 1, "to": 2})).json()["changes"]
    assert [(one["path"], one["change"], one["old"], one["new"]) for one in diff] == [
        ("parameters.horizon", "changed", 8, 12),
        ("labels.team", "removed", "sales", None),
        ("labels.why", "added", None, "yes"),
    ]
    assert diff[0]["pointer"] == "/parameters/horizon"

    back = await api.post(f"/configs/{config_id}/restore", json={"version": 1, "expected_version": 2})
    assert (back.json()["version"], back.json()["restored_from"]) == (3, 1)
    assert (await api.get(f"/configs/{config_id}/export")).text == TEXT
    assert (await api.delete(f"/configs/{config_id}", headers={"If-Match": '"2"'})).status_code == 409
    assert (await api.delete(f"/configs/{config_id}")).status_code == 204
    gone = await api.get(f"/configs/{config_id}")
    assert gone.status_code == 404
    assert "was deleted by tests" in gone.json()["detail"]
    assert (await api.delete(f"/configs/{config_id}")).status_code == 404
    assert (await api.put(f"/configs/{config_id}", content=TEXT, headers=YAML)).status_code == 404
    listed = (await api.get("/configs", params={"name": "walmart"})).json()
    assert (listed["configs"], listed["total"]) == ([], 0)
    versions = (await api.get(f"/configs/{config_id}/versions", params={"limit": 3})).json()
    assert [one["version"] for one in versions["versions"]] == [4, 3, 2]
    rest = (await api.get(f"/configs/{config_id}/versions", params={"cursor": versions["next_cursor"]})).json()
    assert [one["comment"] for one in rest["versions"]] == ["first try"]
    assert (await api.get(f"/configs/{config_id}/versions/2")).json()["config"]["parameters"]["horizon"] == 12
    again = await api.post(f"/configs/{config_id}/restore", json={"version": 2})
    assert (again.json()["version"], again.json()["deleted_at"]) == (5, None)

    def heard() -> list[str]:
        events = [one for one in bus.tape.of(ConfigurationEvent) if one.configuration.config_id == config_id]
        kinds = [type(one).__name__.removeprefix("Configuration") for one in events]
        return kinds if len(kinds) >= 5 else []

    kinds = await eventually(heard, within=20, what="the events of a configuration")
    assert kinds == ["Created", "Updated", "Updated", "Deleted", "Updated"]


async def test_what_is_written_is_exported_to_the_byte_in_either_format(api: httpx.AsyncClient) -> None:
    strange = TEXT.replace("sales.csv", "vêntes ☃.csv") + "\r\n# the end, without a newline"
    config = await created(api, strange)
    exported = await api.get(f"/configs/{config['config_id']}/export")
    assert exported.content == strange.encode()
    assert exported.headers["content-type"].startswith("application/yaml")
    as_json = await api.get(f"/configs/{config['config_id']}/export", params={"format": "json"})
    assert json.loads(as_json.content) == config["config"]
    body = {"text": as_json.text, "format": "json", "name": "again"}
    other = (await api.post("/configs", json=body)).json()
    assert (other["content_hash"], other["format"]) == (config["content_hash"], "json")
    assert (await api.get(f"/configs/{other['config_id']}/export")).content == as_json.content
    as_yaml = await api.get(f"/configs/{other['config_id']}", headers={"Accept": "application/yaml, */*;q=0.1"})
    assert (await created(api, as_yaml.text))["content_hash"] == config["content_hash"]
    replaced = await api.put(
        f"/configs/{config['config_id']}", json={"config": config["config"] | {"priority": 3}}
    )
    assert replaced.json()["format"] == "yaml"
    text = (await api.get(f"/configs/{config['config_id']}/export")).text
    assert "# built in" in text
    assert "priority: 3" in text


async def test_every_wrong_field_is_named_with_its_path_and_the_nearest(api: httpx.AsyncClient) -> None:
    wrong = {
        "recipe": "forecast",
        "priorty": 1,
        "timeout": "soon",
        "parameters": {"horizn": 8, "model": "tnc", "max_steps": 0},
        "data": {"path": "x.csv", "time": "Date"},
    }
    answer = await api.post("/configs/validate", json={"config": wrong})
    assert answer.status_code == 200
    told = {one["path"]: one["message"] for one in answer.json()["errors"]}
    assert (answer.json()["valid"], answer.json()["config"]) == (False, None)
    assert told["priorty"] == "unknown key 'priorty'; did you mean 'priority'?"
    assert "did you mean 'horizon'?" in told["parameters.horizn"]
    assert "did you mean 'tcn'?" in told["parameters.model"]
    assert "greater than or equal to 1" in told["parameters.max_steps"]
    assert told["data.target"] == "this is required"
    assert "15m, 2h, 1d" in told["timeout"]
    assert problems(await api.post("/configs", json={"config": wrong})).keys() == {f"config.{one}" for one in told}
    good = (await api.post("/configs/validate", content=TEXT, headers=YAML)).json()
    assert (good["valid"], good["config"]["parameters"]["batch_size"]) == (True, 32)
    assert good["config"]["hot"] == {"learning_rate": {"minimum": None, "maximum": None, "important": False}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe: [script", "line 2, column 1"),
        ("recipe: script\nrecipe: forecast", "line 2, column 1: the key 'recipe' is written twice"),
        ("- a", "holds a list"),
        ("", "holds nothing"),
        ("x: " + "[" * 20_000, "nested deeper than"),
        ("a: &a [*a]", "nested deeper than"),
        ("a: .nan", "not a finite number"),
        ("yes: 1", "a key was read as true: so YAML reads yes, on and true; put it in quotes if it is a name"),
        ("parameters: {off: 1}", "a key in parameters was read as false: so YAML reads no, off and false"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: " + "9" * 5000, "digits"),
    ],
)
async def test_a_text_that_is_no_document_is_refused(api: httpx.AsyncClient, text: str, says: str) -> None:
    assert says in problems(await api.post("/configs", content=text, headers=YAML))["text"]
    answer = (await api.post("/configs/validate", content=text, headers=YAML)).json()
    assert (answer["valid"], says in answer["errors"][0]["message"]) == (False, True)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_a_number_that_is_none_is_refused_by_name_wherever_a_parameter_can_be_given(
    api: httpx.AsyncClient, tmp_path: Path, number: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    good = {"recipe": "script", "parameters": {"path": str(script), "lr": 0.5}, "hot": ["lr"]}
    config_id = (await api.post("/configs", json={"config": good})).json()["config_id"]
    task_id = (await api.post("/tasks", json={"config": good})).json()["task_id"]
    wrong = {"parameters": {"path": str(script), "lr": -1, "deep": [1, {"x": -1}]}}
    for method, path, body, prefix in (
        ("POST", "/tasks", {"config": {**good, **wrong}}, "config."),
        ("POST", "/tasks", {"config_id": config_id, "changes": wrong}, "changes."),
        ("POST", f"/tasks/{task_id}/rerun", {"changes": wrong}, "changes."),
        ("PATCH", f"/tasks/{task_id}/parameters", {**wrong, "reason": "x"}, ""),
        ("POST", "/configs", {"config": {**good, **wrong}}, "config."),
        ("PATCH", f"/configs/{config_id}", {"changes": wrong}, "changes."),
    ):
        content = json.dumps(body).replace("-1", number)
        answer = await api.request(method, path, content=content, headers={"Content-Type": "application/json"})
        told = problems(answer)
        assert told.keys() == {f"{prefix}parameters.lr", f"{prefix}parameters.deep.1.x"}, path
        assert "not a finite number" in told[f"{prefix}parameters.lr"]
        assert "write it as text if it is meant (got" in told[f"{prefix}parameters.lr"]
    as_text = await api.post("/tasks", json={"config": {**good, "parameters": {"path": str(script), "lr": "NaN"}}})
    assert as_text.status_code == 201, "text is text"


async def test_no_time_at_all_is_no_limit_that_a_run_could_keep(api: httpx.AsyncClient, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    good = {"recipe": "script", "parameters": {"path": str(script)}}
    for none in (0, "0s", -1):
        document = {**good, "timeout": none}
        for path, body in (("/tasks", {"config": document}), ("/configs", {"config": document})):
            told = problems(await api.post(path, json=body))
            assert told.keys() == {"config.timeout"}
            assert "greater than" in told["config.timeout"]
        assert problems(await api.post("/tasks", json={"config": good, "timeout": none})).keys() == {"timeout"}
        (error,) = (await api.post("/configs/validate", json={"config": document})).json()["errors"]
        assert error["path"] == "timeout"
    assert (await api.post("/tasks", json={"config": {**good, "timeout": "1s"}})).status_code == 201


async def test_hostile_requests_get_a_problem_and_change_nothing(api: httpx.AsyncClient) -> None:
    before = (await api.get("/configs")).json()["total"]
    huge = TEXT + "# " + "x" * 60_000
    assert (await api.post("/configs", content=huge, headers=YAML)).status_code == 413
    assert (await api.post("/configs", content=b"x" * 1_000_000, headers=YAML)).status_code == 413
    assert "byte 8" in problems(await api.post("/configs", content=b"recipe: \xff", headers=YAML))["body"]
    assert problems(await api.post("/configs", content=b"{", headers={"Content-Type": "application/json"}))
    assert problems(await api.post("/configs", json={"config": {}, "text": "a: 1"}))
    assert problems(await api.post("/configs", json={}))
    assert problems(await api.post("/configs", json={"config": {"recipe": 7}}))
    assert problems(await api.post("/configs", json={"config": {}, "nmae": "x"}))["nmae"].endswith("'name'?")
    bad_recipe = problems(await api.post("/configs", json={"config": {"recipe": "forcast"}}))
    assert "did you mean 'forecast'?" in bad_recipe["config.recipe"]
    for path in ("nope", "config-000000000000", "..%2F..%2Fetc", "x" * 101):
        assert (await api.get(f"/configs/{path}")).status_code in (404, 422)
    config_id = (await created(api))["config_id"]
    for match in ("abc", "-1", '"1.5"', "²"):
        answer = await api.request("DELETE", f"/configs/{config_id}", headers=[(b"If-Match", match.encode())])
        assert answer.status_code == 422, match
    assert (await api.get(f"/configs/{config_id}/versions/0")).status_code == 422
    assert (await api.get(f"/configs/{config_id}/versions/9")).status_code == 404
    assert (await api.get(f"/configs/{config_id}/diff", params={"from": 1, "to": 9})).status_code == 404
    assert (await api.get(f"/configs/{config_id}/diff")).status_code == 422
    assert (await api.post(f"/configs/{config_id}/restore", json={"version": 7})).status_code == 404
    assert (await api.post("/configs/config-none/restore", json={"version": 1})).status_code == 404
    none = await api.get("/configs/config-none/diff", params={"from": 1, "to": 2})
    assert (none.status_code, none.json()["detail"]) == (404, "there is no configuration 'config-none'")
    both = await api.patch(f"/configs/{config_id}", json={"expected_version": 1}, headers={"If-Match": '"2"'})
    assert problems(both).keys() == {"expected_version"}
    broken = await api.patch(f"/configs/{config_id}", json={"changes": {"parameters": {"horizon": 0}}})
    assert problems(broken).keys() == {"changes.parameters.horizon"}
    assert (await api.get("/configs", params={"cursor": "nonsense"})).status_code == 422
    assert (await api.get(f"/configs/{config_id}")).json()["version"] == 1
    assert (await api.get("/configs")).json()["total"] == before + 1


async def test_of_many_who_change_the_same_version_one_wins(api: httpx.AsyncClient) -> None:
    config_id = (await created(api))["config_id"]
    wishes = [
        api.patch(f"/configs/{config_id}", json={"changes": {"priority": n}, "expected_version": 1})
        for n in range(1, 9)
    ]
    answers = await asyncio.gather(*wishes)
    assert sorted(one.status_code for one in answers) == [200] + [409] * 7
    assert (await api.get(f"/configs/{config_id}")).json()["version"] == 2


async def test_pages_stay_whole_while_configurations_come(api: httpx.AsyncClient) -> None:
    ids = [(await created(api, name="page"))["config_id"] for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"name": "page", "limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await api.get("/configs", params=params)).json()
        seen += [one["config_id"] for one in page["configs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await created(api, name="page")
    assert seen == ids[::-1]


async def test_every_template_is_found_by_name_reads_as_it_says_and_is_valid(api: httpx.AsyncClient) -> None:
    names = [one["name"] for one in (await api.get("/configs/templates")).json()["templates"]]
    assert {"forecast", "forecast/quick", "script", "script/repairable"} <= set(names)
    assert all(
        one.startswith("script")
        for one in [
            t["name"]
            for t in (await api.get("/configs/templates", params={"recipe": "script"})).json()["templates"]
        ]
    )
    for name in names:
        template = (await api.get(f"/configs/templates/{name}")).json()
        checked = await api.post("/configs/validate", content=template["text"].encode(), headers=YAML)
        assert checked.json()["errors"] == [], name
        text = await api.get(f"/configs/templates/{name}", headers={"Accept": "application/yaml"})
        assert text.text == template["text"]
        assert "# " in template["text"]
    missing = await api.get("/configs/templates/forecast/quik")
    assert missing.status_code == 404
    assert "did you mean 'forecast/quick'?" in missing.json()["detail"]


async def test_a_task_is_made_of_a_version_and_outlives_the_configuration(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    document = {"recipe": "script", "parameters": {"path": str(script), "lr": 0.1}, "labels": {"a": "b"}}
    config_id = (await api.post("/configs", json={"config": document})).json()["config_id"]
    await api.patch(f"/configs/{config_id}", json={"changes": {"parameters": {"lr": 0.2}}})

    async def task(**body: Any) -> dict[str, Any]:
        answer = await api.post("/tasks", json=body)
        assert answer.status_code == 201, answer.text
        return dict((await api.get(f"/tasks/{answer.json()['task_id']}")).json())

    newest = await task(config_id=config_id, name="newest")
    assert (newest["config_id"], newest["config_version"], newest["name"]) == (config_id, 2, "newest")
    assert newest["config"]["parameters"]["lr"] == 0.2
    old = await task(config_id=config_id, config_version=1, changes={"parameters": {"depth": 3}})
    assert (old["config_version"], old["config"]["parameters"]["lr"], old["config"]["parameters"]["depth"]) == (
        1,
        0.1,
        3,
    )
    for body, status in (
        ({"config_id": config_id, "config_version": 9}, 404),
        ({"config_id": "config-none"}, 404),
        ({"config_id": config_id, "config": document}, 422),
        ({}, 422),
        ({"config": document, "changes": {}}, 422),
        ({"config_id": config_id, "changes": {"priority": "high"}}, 422),
    ):
        assert (await api.post("/tasks", json=body)).status_code == status, body
    await api.delete(f"/configs/{config_id}")
    assert (await api.post("/tasks", json={"config_id": config_id})).status_code == 404
    assert (await api.get(f"/tasks/{newest['task_id']}")).json()["config"]["parameters"]["lr"] == 0.2
    again = await task(config_id=config_id, config_version=2)
    assert again["config_version"] == 2, "a version stays what it is"

    rerun = await api.post(
        f"/tasks/{old['task_id']}/rerun", json={"changes": {"parameters": {"lr": 0.4}}, "priority": 7}
    )
    new = (await api.get(f"/tasks/{rerun.json()['task_id']}")).json()
    assert (new["rerun_of"], new["config"]["parameters"]["lr"], new["config"]["priority"]) == (
        old["task_id"],
        0.4,
        7,
    )
    assert new["config"]["parameters"]["depth"] == 3
    bad = await api.post(f"/tasks/{old['task_id']}/rerun", json={"changes": {"recipe": "scrpt"}})
    assert "did you mean 'script'?" in problems(bad)["changes.recipe"]
    assert (await api.post("/tasks/task-none/rerun", json={})).status_code == 404
    same = await api.post(f"/tasks/{old['task_id']}/rerun", headers={"Idempotency-Key": old["task_id"]})
    assert same.status_code == 201, "what changes nothing needs no body"
    new = (await api.get(f"/tasks/{same.json()['task_id']}")).json()
    assert (new["rerun_of"], new["config"], new["started_at"]) == (old["task_id"], old["config"], None)
    said = await api.post(f"/tasks/{old['task_id']}/rerun", json={}, headers={"Idempotency-Key": old["task_id"]})
    assert said.json() == same.json(), "and is the same request as an empty one"
