"""The recipes that come with Trainwright, and what a recipe has to say about itself.

Everything is named by `module:attribute` and imported when it is asked for: the control plane reads
configurations, only a run imports what trains.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from trainwright.contracts.task_config import HotRule, RepairRole

HOT: dict[str, Any] = {"hot": True}
HOT_IMPORTANT: dict[str, Any] = {"hot": True, "important": True}


class RecipeConfig(BaseModel):
    """The parameters of a recipe. A key that it does not know is refused.

    A field with `json_schema_extra=HOT` may change while a run trains; `HOT_IMPORTANT`: after a confirmation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Protocol):
    """What trains. `Config` is the model of its parameters; an instance is made for one run."""

    Config: type[RecipeConfig]

    def train(self, run: Any, config: Any, data: dict[str, Any] | None) -> dict[str, Any]:
        """Train through the run context, leave files in `run.output`, and return a summary as JSON.

        Asked to stop, it returns `{"stopped": True}` once its checkpoint is saved, and leaves no model.
        Of the summary, `identity` (what model versions count for), `description`, `metrics` (numbers, and
        a `baseline` with the same names), and `data` (path and sha256) are understood by others.
        """


@dataclass(frozen=True, slots=True)
class Preset:
    """A document to begin with: what differs from a recipe's defaults."""

    summary: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One recipe of the table; third parties make one and name it by an entry point."""

    name: str
    summary: str
    config: str
    """`module:class` of its RecipeConfig; must be cheap to import."""
    recipe: str | None = None
    """`module:class` of what trains; None when the worker starts the user's own file."""
    data: str | None = None
    """`module:class` of its data section; None when it takes whatever is given."""
    needs_data: bool = False
    repairable: Mapping[RepairRole, str] = field(default_factory=dict)
    """Parameters that a repair may change, and what they are; a resumed run takes the new value from there on."""
    presets: Mapping[str, Preset] = field(default_factory=dict)
    """Documents to begin with, by name; a template is made of the recipe's schema without any."""

    def config_model(self) -> type[RecipeConfig]:
        """Return the model of its parameters."""
        found: type[RecipeConfig] = _load(self.config)
        return found

    def hot(self) -> dict[str, HotRule]:
        """Return the parameters that may change while a run trains, as its schema says."""
        found = {}
        for name, one in self.config_model().model_fields.items():
            extra = one.json_schema_extra if isinstance(one.json_schema_extra, dict) else {}
            if extra.get("hot"):
                found[name] = HotRule(important=extra.get("important") is True)
        return found

    def data_model(self) -> type[BaseModel] | None:
        """Return the model of its data section, if it has one."""
        return None if self.data is None else _load(self.data)

    def load(self) -> type[Recipe]:
        """Import and return what trains.

        Raises:
            LookupError: The worker starts the user's own file for this recipe.
        """
        if self.recipe is None:
            raise LookupError(f"the recipe {self.name!r} has no class: a worker starts the file itself")
        found: type[Recipe] = _load(self.recipe)
        return found


RECIPES: dict[str, Entry] = {
    "forecast": Entry(
        name="forecast",
        summary="Forecast sales by product and store, with its error beside seasonal naive's.",
        config="trainwright.recipes.forecast.config:ForecastConfig",
        recipe="trainwright.recipes.forecast.recipe:ForecastRecipe",
        data="trainwright.recipes.forecast.config:ForecastData",
        needs_data=True,
        repairable={
            RepairRole.BATCH: "batch_size",
            RepairRole.MICRO_BATCH: "micro_batch",
            RepairRole.LEARNING_RATE: "learning_rate",
        },
        presets={
            "quick": Preset(
                "A first look in seconds: few steps, a small network, one evaluation.",
                {"parameters": {"max_steps": 50, "channels": 16, "origins": 1}},
            ),
            "by-store": Preset(
                "One series for each product within each store.",
                {"parameters": {"mode": "store"}, "data": {"product": "product", "store": "store"}},
            ),
            "by-product": Preset(
                "One series for each product, summed over stores.",
                {"parameters": {"mode": "product"}, "data": {"product": "product"}},
            ),
            "long": Preset(
                "A thorough training that may be paused and goes on: more steps, a time limit, checkpoints.",
                {
                    "parameters": {"max_steps": 3000, "checkpoint_every": 500},
                    "timeout": "2h",
                    "on_timeout": "pause",
                },
            ),
        },
    ),
    "script": Entry(
        name="script",
        summary="Run a Python file of one's own.",
        config="trainwright.recipes.script:ScriptConfig",
        presets={
            "gpu": Preset(
                "A script on one GPU.",
                {"resource_requirements": {"gpu": 1, "cpu": 4, "memory": "16Gi"}},
            ),
            "repairable": Preset(
                "A script whose batch and rate are mended by themselves; the rate may change while it runs.",
                {
                    "parameters": {"batch_size": 64, "accumulate": 1, "learning_rate": 0.001},
                    "repairable": {
                        "micro_batch": "batch_size",
                        "accumulate": "accumulate",
                        "learning_rate": "learning_rate",
                    },
                    "hot": {"learning_rate": {"minimum": 0, "maximum": 1}},
                },
            ),
        },
    ),
}


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
