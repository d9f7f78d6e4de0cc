"""Who may come in: keys are looked up by fingerprint and remembered for a few seconds."""

import asyncio
import logging
from pathlib import Path

from services.gateway.domain import ApiKey, fingerprint
from services.gateway.store import find_key, named_key, save_key
from trainwright.contracts.errors import Unauthorised
from trainwright.runtime.clock import Clock
from trainwright.storage.document import DocumentStore

logger = logging.getLogger(__name__)

REMEMBER = 5.0
MOST_REMEMBERED = 1000
ADMIN = "admin"


class KeyRing:
    """The keys of one gateway. The first admin key comes from a file, which may change while the gateway runs."""

    def __init__(self, store: DocumentStore, clock: Clock, admin_key_file: Path | None) -> None:
        self._store = store
        self._clock = clock
        self._file = admin_key_file
        self._file_seen: tuple[int, int] | None = None
        self._known: dict[str, tuple[ApiKey, float]] = {}

    async def owner(self, key: str | None) -> ApiKey:
        """Return whose key this is.

        Raises:
            Unauthorised: There is none, or nobody's.
        """
        if not key:
            raise Unauthorised("no API key was sent; send the header `Authorization: Bearer KEY`")
        sha256 = fingerprint(key)
        found, until = self._known.get(sha256, (None, 0.0))
        if found is None or until < self._clock.monotonic():
            await self._read_file()
            found = await find_key(self._store, sha256)
            if found is None:
                raise Unauthorised("this API key is not known here")
            self._remember(found)
        return found

    def _remember(self, key: ApiKey) -> None:
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[key.sha256] = (key, self._clock.monotonic() + REMEMBER)

    async def _read_file(self) -> None:
        """Take over the admin key from its file if that is new."""
        if self._file is None:
            return
        try:
            seen = await asyncio.to_thread(_version, self._file)
            if seen == self._file_seen:
                return
            text = await asyncio.to_thread(self._file.read_text)
        except (OSError, UnicodeDecodeError) as error:
            logger.warning("the admin key file %s cannot be read: %s", self._file, error)
            return
        if text.strip():
            await self._take_over(fingerprint(text.strip()))
        self._file_seen = seen

    async def _take_over(self, sha256: str) -> None:
        known = await named_key(self._store, ADMIN)
        if known is None or known.sha256 != sha256:
            await save_key(self._store, ApiKey(name=ADMIN, sha256=sha256, created_at=self._clock.now()))
            self._known.clear()


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
