"""Pure parts of the log service: what looks like a secret is masked before anything is stored.

A safety net, not a vault: it knows common shapes, and errs to the side of masking.
"""

import re
from collections.abc import Callable
from typing import Any

from trainwright.contracts.log import LogRecord

MASK = "***"

_NAMES = (
    r"passwords?|passwd|passphrase|pwd|secrets?|token|api[-_]?keys?|(?:access|secret|private|auth|account)[-_]?keys?"
    r"|credentials?"
)
_NAME = rf"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?-i:(?=[A-Z])))(?P<name>{_NAMES})"
"""A word of its own, or the end of one: ``password``, ``db_password``, ``HF_TOKEN``, ``accessToken``."""

_NEEDLES = (
    *("passw", "passphrase", "pwd", "secret", "token", "key", "credential", "authorization", "bearer", "://"),
    *("akia", "asia", "eyj", "ghp_", "gho_", "ghs_", "ghr_", "ghu_", "github_pat", "hf_", "sk-", "xox", "glpat"),
)
"""Every rule's match holds one of these; most lines hold none and cost next to nothing."""

_OF_A_MODEL = re.compile(
    r"[-+]?\d[\d.,_]{0,11}(?:e[-+]?\d+)?[a-z%/]{0,4}|[<\[].{0,20}|none|null|true|false|nan", re.I
)
"""What stands behind ``token`` when a language model is meant: a count, ``<pad>``, ``[CLS]``."""


def _mask_value(match: re.Match[str]) -> str:
    of_a_model = match["name"].lower() == "token" and _OF_A_MODEL.fullmatch(match["value"])
    return match[0] if of_a_model else match["before"] + MASK


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----).*?(-----END [A-Z ]{0,30}-----|\Z)", re.S),
        rf"\1{MASK}\2",
    ),
    (re.compile(r"""(authorization["']?\s*[:=]\s*["']?)(?:[a-z]+\s+)?[^\s"',}]+""", re.I), rf"\1{MASK}"),
    (re.compile(r"\b(bearer\s+)[a-z0-9._~+/=-]{8,}", re.I), rf"\1{MASK}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,100}:)[^\s/@]{1,200}(?=@)", re.I), rf"\1{MASK}"),
    (
        re.compile(rf"""(?P<before>{_NAME}["']?\s{{0,3}}(?:=>|[:=])\s{{0,3}}["'])(?P<value>[^"']+)""", re.I),
        _mask_value,
    ),
    (
        re.compile(rf"""(?P<before>{_NAME}["']?\s{{0,3}}(?:=>|[:=])\s{{0,3}})(?P<value>[^\s"',;&)}}]+)""", re.I),
        _mask_value,
    ),
    (re.compile(rf"(?P<before>--[\w-]{{0,40}}?{_NAME}\s+)(?P<value>[^\s-]\S*)", re.I), _mask_value),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (re.compile(r"\b(?:gh[opsru]_\w{20,}|github_pat_\w{20,}|hf_[A-Za-z0-9]{20,}|glpat-[\w-]{16,})"), MASK),
    (re.compile(r"\b(?:sk-(?=[\w-]*\d)[\w-]{20,}|xox[abeprs]-[\w-]{10,})"), MASK),
)


def masked(text: str) -> str:
    """Return text with what looks like a secret replaced by ``***``."""
    lowered = text.lower()
    if not any(needle in lowered for needle in _NEEDLES):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def masked_record(record: LogRecord) -> LogRecord:
    """Return a record without secrets in its message and in the texts that it carries."""
    return record.model_copy(update={"message": masked(record.message), "extra": _masked_value(record.extra)})


def _masked_value(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list):
        return [_masked_value(item) for item in value]
    if isinstance(value, dict):
        return {key: MASK if _is_secret(key, item) else _masked_value(item) for key, item in value.items()}
    return value


def _is_secret(key: str, value: Any) -> bool:
    return isinstance(value, str) and re.search(rf"{_NAME}$", key, re.I) is not None
