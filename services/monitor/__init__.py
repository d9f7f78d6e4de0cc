"""Monitor owns metric series: it folds them from the log, serves their history, and streams them live."""

from services.monitor.service import build_service

__all__ = ["build_service"]
