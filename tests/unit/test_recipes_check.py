"""Recipe and parameters are checked before a task runs: every wrong field is named, with the nearest known one."""

import subprocess
import sys

import pytest

from trainwright import recipes

DATA = {"path": "sales.csv", "time": "Date", "target": "Sales", "product": "Dept", "store": "Store"}


def paths(problems: list[tuple[str, str]]) -> list[str]:
    return [path for path, _ in problems]


def test_defaults_are_filled_in_and_the_result_is_accepted_again() -> None:
    resolved, problems = recipes.check("forecast", {"mode": "store", "horizon": 4}, DATA)
    assert problems == []
    assert (resolved["horizon"], resolved["model"], resolved["max_steps"], resolved["origins"]) == (
        4,
        "tcn",
        300,
        4,
    )
    assert recipes.check("forecast", resolved, DATA) == (resolved, [])


def test_an_unknown_recipe_names_the_nearest_and_all() -> None:
    _, problems = recipes.check("forcast", {})
    assert problems == [
        ("recipe", "unknown recipe 'forcast'; did you mean 'forecast'? (there are: forecast, script)")
    ]
    with pytest.raises(recipes.UnknownRecipe, match="did you mean 'script'"):
        recipes.get("scripts")


def test_every_wrong_parameter_is_named_at_once() -> None:
    given = {"horizn": 3, "horizon": 0, "model": "tnc", "learning_rate": float("nan"), "seed": -1}
    resolved, problems = recipes.check("forecast", given, {**DATA, "tme": "x"})
    assert resolved == given
    assert set(paths(problems)) == {
        "parameters.horizn",
        "parameters.horizon",
        "parameters.model",
        "parameters.learning_rate",
        "parameters.seed",
        "data.tme",
    }
    said = dict(problems)
    assert said["parameters.horizn"] == "unknown parameter 'horizn'; did you mean 'horizon'?"
    assert said["data.tme"] == "unknown key 'tme'; did you mean 'time'?"
    assert "'tcn'" in said["parameters.model"]
    assert "got '0'" in said["parameters.horizon"]


def test_parameters_and_data_have_to_fit_together() -> None:
    assert paths(recipes.check("forecast", {}, None)[1]) == ["data"]
    plain = {"path": "a.csv", "time": "t", "target": "y"}
    assert recipes.check("forecast", {}, plain)[1] == []
    assert paths(recipes.check("forecast", {"mode": "store"}, plain)[1]) == ["data.store"]
    assert paths(recipes.check("forecast", {"product_ids": ["1"]}, plain)[1]) == ["data.product"]
    _, problems = recipes.check("forecast", {"batch_size": 8, "micro_batch": 9}, plain)
    assert problems == [("parameters", "micro_batch (9) is larger than batch_size (8)")]


def test_a_script_takes_its_own_parameters_but_no_misspelt_path() -> None:
    resolved, problems = recipes.check("script", {"path": "train.py", "args": ["--epochs", 3], "lr": 0.1})
    assert problems == []
    assert resolved == {"path": "train.py", "args": ["--epochs", "3"], "lr": 0.1}
    assert "did you mean 'path'?" in recipes.check("script", {"pth": "train.py"})[1][0][1]
    assert paths(recipes.check("script", {})[1]) == ["parameters.path"]
    assert paths(recipes.check("script", {"path": "x.py", "args": [["no"]]})[1]) == ["parameters.args.0"]


def test_identifiers_may_be_numbers_and_become_text() -> None:
    resolved, problems = recipes.check("forecast", {"mode": "store", "store_ids": [1, "B"]}, DATA)
    assert problems == []
    assert resolved["store_ids"] == ["1", "B"]


def test_checking_never_imports_what_trains() -> None:
    code = (
        "import sys; from trainwright import recipes;"
        "recipes.check('forecast', {}, {'path': 'a', 'time': 'b', 'target': 'c'});"
        "recipes.config_model('forecast').model_json_schema();"
        "print([m for m in ('torch', 'pandas', 'numpy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_every_parameter_is_described(name: str) -> None:
    properties = recipes.config_model(name).model_json_schema()["properties"]
    assert [field for field, schema in properties.items() if not schema.get("description")] == []
