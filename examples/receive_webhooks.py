"""Receive webhooks: check each signature, answer, print. The standard library alone.

`TRAINWRIGHT_WEBHOOK_SECRET=whsec_… python examples/receive_webhooks.py 8080`; `trainwright webhook create` shows
the secret. Events come at least once: remember `webhook-id` where twice matters.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE = 300
"""Seconds that a delivery may be old: over that somebody may have kept it to send it again."""


def is_genuine(secret: str, headers: Mapping[str, str] | Message, body: bytes) -> bool:
    """Return whether a delivery was signed with our secret, just now."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    wanted = b"v1," + base64.b64encode(digest)
    # While a secret is changed there are two signatures.
    signatures = headers.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(wanted, signature) for signature in signatures)


class Receiver(BaseHTTPRequestHandler):
    """Takes events; what is not signed with our secret is not even read as JSON."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        genuine = is_genuine(os.environ["TRAINWRIGHT_WEBHOOK_SECRET"], self.headers, body)
        if genuine:
            event = json.loads(body)
            print(event["time"], event["type"].split(".")[2], event["subject"], flush=True)
        self.send_response(204 if genuine else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing but the events."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
