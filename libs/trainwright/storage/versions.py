"""Writers that name the version they know; the same check in every engine. No I/O."""

from trainwright.contracts.errors import VersionConflict
from trainwright.storage.document import Document


def check(stored: Document | None, expect: int, what: str) -> None:
    """Raise VersionConflict unless a document is at the version its writer knows; 0 is one that is not there."""
    version = 0 if stored is None else stored.get("version")
    if version != expect:
        raise VersionConflict(f"{what} is at version {version}, not {expect}")
