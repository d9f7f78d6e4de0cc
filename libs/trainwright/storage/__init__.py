"""Where services keep things: ports (``document``, ``blob``) and their engines. Services use the ports."""
