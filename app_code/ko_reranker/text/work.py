"""How much work the texts of a request may cause, counted so that a text fares alike on every machine and at every load.

A unit is what takes a core of these days about a microsecond.
"""

from __future__ import annotations

# Of one text: Korean of 60,000 characters, dumped as YAML and escaped, takes less than half of it.
TEXT_UNITS = 500_000
# Of all texts of a request: whatever honest texts fit into one that comes through API Gateway.
REQUEST_UNITS = 2_500_000


class TooMuchWork(Exception):
    """What is to be done takes more than is left."""


class Allowance:
    """The work that may still be done for the texts of a request.

    Args:
        units: for all of them.
        units_a_text: for each of them.
    """

    def __init__(self, units: int = REQUEST_UNITS, units_a_text: int = TEXT_UNITS) -> None:
        self._units_a_text = units_a_text
        self._request_left = units
        self._text_left = min(units_a_text, units)

    def next_text(self) -> None:
        """Begin with another text."""
        self._text_left = min(self._units_a_text, self._request_left)

    @property
    def left(self) -> int:
        """Units that the present text may still take."""
        return self._text_left

    def spend(self, units: int) -> None:
        """Count work before it is done.

        Raises:
            TooMuchWork: there is not as much left.
        """
        if units > self._text_left:
            raise TooMuchWork
        self._text_left -= units
        self._request_left -= units
