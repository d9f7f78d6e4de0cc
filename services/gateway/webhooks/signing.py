"""Secrets and signatures, as the Standard Webhooks specification has them. Pure but for new secrets."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from trainwright.contracts.errors import FieldError, InvalidInput

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64


def new_secret() -> str:
    """Return a secret nobody knows."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """Return a secret that somebody brought.

    Raises:
        InvalidInput: It is not in the form; the error does not repeat it.
    """
    try:
        size = len(_key(secret))
    except (ValueError, binascii.Error):
        size = 0
    if not secret.startswith(PREFIX) or not SHORTEST <= size <= LONGEST:
        message = f"is not `{PREFIX}` and {SHORTEST} to {LONGEST} bytes in base64; leave it out to have one made"
        raise InvalidInput(f"secret: {message}", [FieldError(path="secret", message=message)])
    return secret


def signature(keys: Iterable[str], id: str, timestamp: int, body: bytes) -> str:
    """Return the value of ``webhook-signature``: one for each secret that holds now."""
    signed = f"{id}.{timestamp}.".encode() + body
    digests = (hmac.digest(_key(secret), signed, hashlib.sha256) for secret in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
