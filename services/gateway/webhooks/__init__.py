"""Signed webhooks: each event posted to who asked for it, at least once and in order."""
