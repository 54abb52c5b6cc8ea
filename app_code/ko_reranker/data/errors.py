"""The one error a step of the pipeline raises on purpose."""


class PipelineError(Exception):
    """A stop that a person can act on: the message says what is wrong and what to do.

    The state machines show the message as the reason of the stop, so it never holds document text.
    """
