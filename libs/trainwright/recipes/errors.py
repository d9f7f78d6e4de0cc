"""What goes wrong in recipes because of what they were given."""


class DataError(Exception):
    """The data cannot be used as asked; the message says what is wrong, where, and what would be right.

    A run that ends with it failed with class `data_error`: the same data will fail again.
    """
