"""All public events as a stream: the log read once for everybody, resumed at a position by each."""
