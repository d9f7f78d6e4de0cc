"""The control plane: all services in one process, the gateway listening."""

from services.app import SERVICES
from trainwright.runtime.run import main

main(list(SERVICES.values()), listening="gateway")
