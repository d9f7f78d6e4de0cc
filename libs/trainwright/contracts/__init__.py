"""The contracts: events, topics, and the shapes of the public API. One file per noun; nothing here acts."""
