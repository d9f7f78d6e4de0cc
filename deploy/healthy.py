#!/usr/bin/env -S python3 -IS
"""Health of the process in this container: `healthy /health/ready [PORT]`; exit code 0 when it answers 200.

Standard library alone, and little of it: it runs every few seconds in every container.
"""

import http.client
import os
import sys


def main(path: str, port: str) -> int:
    """Ask once; say on stdout what `docker inspect` should show."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        print(answer.status, answer.read(2000).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as error:
        print(f"nobody answers on port {port}: {error}")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else os.environ.get("TRAINWRIGHT_PORT", "8700")))
