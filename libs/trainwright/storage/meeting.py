"""Have transactions meet that read what the other one writes: in two processes at the same time, neither sees it.

A snapshot shows what was committed before it began. Two transactions that each write a document of their own and
look for the other's would both find nothing, and nobody would do what follows from the two together. Of two that
meet at a subject one is refused (``StoreBusy``); done again, it sees the other.
"""

from trainwright.storage.document import Collection, Transaction

MEETINGS = Collection("meetings")


async def meet(tx: Transaction, subject: str) -> None:
    """Change what every transaction about a subject changes."""
    known = await tx.get(MEETINGS.name, subject) or {"count": 0}
    await tx.put(MEETINGS.name, subject, {"count": known["count"] + 1})
