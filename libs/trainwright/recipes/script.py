"""The parameters of the recipe `script`: a Python file of the user's own, started by the worker itself."""

import difflib
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from trainwright.recipes.table import RecipeConfig

OWN_KEYS = ("path", "args")


class ScriptConfig(RecipeConfig):
    """A file, its arguments, and anything else that `trainwright.init().parameters` should hold.

    The script's own parameters cannot be known here, so they are taken as they are; a key that looks like a
    misspelt `path` or `args` is refused.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    path: str = Field(min_length=1, max_length=4096, description="The file to run, relative to the task's files.")
    args: list[Annotated[str, Field(max_length=32_768)]] = Field(
        default=[], max_length=1000, description="Command-line arguments; numbers are taken as they are written."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_misspelling(cls, given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            close = difflib.get_close_matches(str(key).lower(), OWN_KEYS, n=1, cutoff=0.75)
            if key not in OWN_KEYS and close:
                raise ValueError(f"unknown parameter {key!r}; did you mean {close[0]!r}?")
        return given

    @field_validator("path")
    @classmethod
    def _clean(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path has no NUL character")
        return path

    @field_validator("args", mode="before")
    @classmethod
    def _as_text(cls, args: Any) -> Any:
        """Take YAML's numbers as arguments: `args: [--epochs, 3]`."""
        if not isinstance(args, list):
            return args
        return [str(arg) if isinstance(arg, int | float) and not isinstance(arg, bool) else arg for arg in args]
