"""Sales forecasts by product and store: data, network, training, evaluation, and the bundle they leave.

Not here: torch and pandas, until `recipe`, `data`, `network` or `bundle` are imported.
"""
