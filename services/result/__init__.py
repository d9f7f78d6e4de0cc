"""The result service owns what completed tasks left: model versions, their files, and reports."""

from services.result.service import build_service

__all__ = ["build_service"]
