"""What a training process sees: the run context, its spool, its bundle, and how its failure is named.

Not here: Kafka, HTTP, stores. A training process reads and writes files in its run directory and nothing
else.
"""
