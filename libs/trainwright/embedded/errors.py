"""What can go wrong on this machine; every message is one sentence that a person can act on.

EmbeddedError
├── HomeError     the home, its ports, its lock
└── KafkaError    fetching, starting or stopping Kafka
"""

import errno


class EmbeddedError(Exception):
    """Base of all errors here; ``str(error)`` is the sentence to show."""


class HomeError(EmbeddedError):
    """The home cannot be used as it is."""


class KafkaError(EmbeddedError):
    """Kafka cannot be had, or does not run."""


def explain(error: OSError) -> str:
    """Return the reason of an operating system's error in a few words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file is in the place of a folder"
    return (error.strerror or str(error)).lower()
