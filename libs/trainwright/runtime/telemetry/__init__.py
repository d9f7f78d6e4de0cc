"""Traces and figures of a process: one table of names, spans that follow an event, `/metrics`."""
