"""A worker's HTTP edge: health and figures, for those who watch over it. Nobody commands a worker over HTTP."""

import socket

from services.trainer_worker.place import SOURCE
from trainwright.runtime.health import Health
from trainwright.runtime.http import bare_app
from trainwright.runtime.server import Server
from trainwright.runtime.telemetry.edge import Observed
from trainwright.runtime.telemetry.scraping import Scrape


async def serve(host: str, port: int, health: Health, scrape: Scrape) -> None:
    """Answer until cancelled.

    Raises:
        OSError: Nobody can listen there: a worker works without it.
    """
    # Bound here: uvicorn ends the process when it cannot.
    with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        app = Observed(bare_app(SOURCE, health), SOURCE, scrape, continues=False)
        await Server(app, host, port).serve(sockets=[listener])
