"""The error of a command."""


class OperationError(Exception):
    """A command can't do what it was asked; the message says why and what to do next."""
