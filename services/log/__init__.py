"""Log owns log records of runs: it folds them from the log, masks secrets, and finds them again."""

from services.log.service import build_service

__all__ = ["build_service"]
