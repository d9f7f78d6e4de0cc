"""How a report looks. `python -m services.result.report` draws, in a process of its own; `page` needs no drawing.

Not here: when a report is rendered, and where it is kept (``services/result/rendering.py``).
"""
