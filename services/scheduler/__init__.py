"""The scheduler owns workers as the platform sees them, the queue, quotas, placements, the numbers of attempts."""

from services.scheduler.service import build_service

__all__ = ["build_service"]
