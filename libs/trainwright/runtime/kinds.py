"""Kinds of settings: what each may say. Numbers have bounds within which nothing overflows or runs in circles."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

LONGEST = 10 * 365 * 86_400
"""Seconds that a setting may say."""

Seconds = Annotated[float, Field(gt=0, le=LONGEST)]
Patience = Annotated[float, Field(ge=0, le=LONGEST)]
"""Seconds as well, where 0 has a sense: at once, or not at all."""
Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Size = Annotated[int, Field(ge=1, le=2**50)]
"""Bytes of something that there is."""

_SERVER = re.compile(r"\s*(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?\s*")
_STORE = re.compile(r"sqlite:.+|mongodb(\+srv)?://.+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _are_servers(text: str) -> str:
    for server in text.split(","):
        found = _SERVER.fullmatch(server)
        if found is None or not 1 <= int(found[1] or 1) <= 65535:
            raise ValueError(f"{server!r} is no server, such as 127.0.0.1:9092; several have commas between them")
    return text


def _are_urls(text: str) -> str:
    for url in text.split(","):
        try:
            found = urlsplit(url.strip())
            fits = found.port != 0 and found.scheme in ("http", "https") and found.hostname is not None
        except ValueError:
            fits = False
        if url.strip() and not fits:
            raise ValueError(f"{url.rpartition('@')[2]!r} is no address, such as http://127.0.0.1:8700")
    return text


def _is_store(text: str) -> str:
    if not _STORE.fullmatch(text):
        raise ValueError(f"{text.rpartition('@')[2]!r} is neither `sqlite:<folder>` nor `mongodb://…`")
    return text


def _are_blobs(text: str) -> str:
    engine, _, where = text.partition(":")
    if engine == "s3" and not _BUCKET.fullmatch(where):
        raise ValueError(
            f"{text!r} is not s3:<bucket>: a bucket is called by 3 to 63 small letters, digits, `.` and `-`,"
            " a letter or a digit at both ends"
        )
    if engine not in ("dir", "s3") or not where:
        raise ValueError(f"{text!r} is neither `dir:<folder>` nor `s3:<bucket>`")
    return text


Servers = Annotated[str, AfterValidator(_are_servers)]
Urls = Annotated[str, AfterValidator(_are_urls)]
"""One address of HTTP, or several with commas between them."""
Store = Annotated[str, AfterValidator(_is_store)]
Blobs = Annotated[str, AfterValidator(_are_blobs)]
