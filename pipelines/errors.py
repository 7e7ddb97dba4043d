"""The base class of every error that the user can correct."""


class UserError(Exception):
    """Something the user gave cannot be used. The message says what is wrong, what was received and
    what to do; commands print it in place of a traceback."""
