"""Trainwright on one machine without Docker: Kafka as a local process, and the supervisor behind ``up``.

Not here: the services themselves (the supervisor only names their modules) and the command line.
"""
