"""Gateway owns API keys: it lets people in, and hands each request to the service that owns the answer."""

from services.gateway.service import build_service

__all__ = ["build_service"]
