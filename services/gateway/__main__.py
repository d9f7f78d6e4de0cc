from services.gateway.service import build_service
from trainwright.runtime.run import main

main([build_service], listening="gateway")
