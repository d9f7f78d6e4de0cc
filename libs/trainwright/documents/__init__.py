"""Documents as text and as data: reading and writing YAML and JSON, editing with comments kept, comparing.

Not here: what a document means (contracts, recipes), files, HTTP.
"""
