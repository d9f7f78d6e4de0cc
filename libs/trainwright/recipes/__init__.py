"""Recipes by name: what a task's `recipe` may be, what it takes, and what trains it.

Third parties add theirs by an entry point of the group `trainwright.recipes` that names an `Entry`.
Not here: a configuration is checked without importing torch or pandas; what trains is imported by `get` only.
"""

from trainwright.recipes.check import UnknownRecipe, check, config_model, entries, find, get
from trainwright.recipes.errors import DataError
from trainwright.recipes.table import HOT, HOT_IMPORTANT, RECIPES, Entry, Preset, Recipe, RecipeConfig

__all__ = [
    "HOT",
    "HOT_IMPORTANT",
    "RECIPES",
    "DataError",
    "Entry",
    "Preset",
    "Recipe",
    "RecipeConfig",
    "UnknownRecipe",
    "check",
    "config_model",
    "entries",
    "find",
    "get",
]
