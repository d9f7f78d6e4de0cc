"""What spans say of an event: its envelope, never its content."""

from trainwright.runtime.telemetry.tracing import Attributes


def event_attributes(
    operation: str, topic: str, *, id: str, subject: str, version: object = None, attempt: object = None
) -> Attributes:
    """Return the attributes of a span that publishes or processes an event."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "messaging.message.id": id,
        "trainwright.subject": subject,
        "trainwright.version": None if version is None else str(version),
        "trainwright.attempt": None if attempt is None else str(attempt),
    }
