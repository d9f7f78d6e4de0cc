"""The recipes that come with Trainwright, and what a recipe has to say about itself.

Everything is named by `module:attribute` and imported when it is asked for: the control plane reads
configurations, only a run imports what trains.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class RecipeConfig(BaseModel):
    """The parameters of a recipe. A key that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(Protocol):
    """What trains. `Config` is the model of its parameters; an instance is made for one run."""

    Config: type[RecipeConfig]

    def train(self, run: Any, config: Any, data: dict[str, Any] | None) -> dict[str, Any]:
        """Train through the run context, leave files in `run.output`, and return a summary as JSON.

        Of the summary, `identity` (what model versions count for), `description`, `metrics` (numbers, and
        a `baseline` with the same names), and `data` (path and sha256) are understood by others.
        """


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

    def config_model(self) -> type[RecipeConfig]:
        """Return the model of its parameters."""
        found: type[RecipeConfig] = _load(self.config)
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
    ),
    "script": Entry(
        name="script",
        summary="Run a Python file of one's own.",
        config="trainwright.recipes.script:ScriptConfig",
    ),
}


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
