"""The task service owns tasks: their documents, their state machine, their history, and what follows a failure."""

from services.task.service import build_service

__all__ = ["build_service"]
