"""Run a recipe in the child process: `python -u -m trainwright.training.launch` in a run directory.

Not here: recipes themselves; scripts, which are started directly.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from trainwright.training import layout
from trainwright.training.context import init


def main() -> None:
    """Find the recipe that spec.json names, train it through the run context, keep what it returns as
    result.json.
    """
    directory = Path(os.environ[layout.RUN_DIR_VARIABLE])
    spec = layout.read_json(directory / layout.SPEC)
    if spec is None:
        sys.exit(f"{directory / layout.SPEC} is missing or not JSON")
    # By name and not by import: recipes are built on this package.
    recipe = import_module("trainwright.recipes").get(str(spec["recipe"]))()
    data: dict[str, Any] | None = spec.get("data")
    run = init()
    # As the run was given them: what changed since is in its journal, so that a resumed run is the same run.
    config = recipe.Config.model_validate(run.given)
    run.accepts(recipe.Config.model_validate)
    result = recipe.train(run, config, data)
    run.finish()
    layout.write_json(directory / layout.RESULT, result)


if __name__ == "__main__":
    main()
