"""Which workers of this machine shall run: the provisioner writes it to the home, the supervisor follows."""

import json

from trainwright.embedded.errors import HomeError, explain
from trainwright.embedded.home import Home


class Roster:
    """The names of the wanted workers. It outlives who wrote it: an `up` after a crash starts the same ones."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file = home.path / "roster.json"

    def read(self) -> set[str]:
        """Return the names; empty when there is no file.

        Raises:
            HomeError: It cannot be read, or is damaged.
        """
        try:
            found = json.loads(self._file.read_text())
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise HomeError(f"{self._file} cannot be read: {explain(error)}") from error
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise HomeError(f"{self._file} is damaged; remove this one file, and workers are started as needed")
        return set(found)

    def write(self, names: set[str]) -> None:
        """Keep the names.

        Raises:
            HomeError: It cannot be written.
        """
        self._home.write(self._file, json.dumps(sorted(names)) + "\n")
