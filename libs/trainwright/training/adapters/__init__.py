"""Adapters: a run's checkpoints, resuming, stopping and metrics for frameworks that own the training loop.

Nothing is imported here: `adapters.huggingface` and `adapters.lightning` need their framework, which users bring.
Not here: the frameworks' own checkpoint files, which both adapters switch off.
"""
