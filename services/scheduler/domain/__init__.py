"""Placing tasks: pure functions over what is free and what waits. No I/O, no clock.

``planning.plan`` is the pass: it reads a ``State`` (``state.py``) and changes nothing. ``why.py`` explains from
the same state. Not here: how that state is kept (``board.py`` beside this folder).
"""
