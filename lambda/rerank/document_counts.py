"""How many documents a key has had ranked in the present minute: one conditional UpdateItem a request, by the key's id.

The window is the minute of the clock. A request is counted once it is known to be valid, and before the model is asked: what
the model then does to it makes no difference. Without an answer from the table nobody is refused: the limit protects the model
from single callers, and a table that is down must not take the API down with it. The metric `uncounted` tells of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sagemaker_runtime import AwsClient, ConnectionFailed, EndpointError, NotConnected, TooSlow

from ko_reranker.protocol import ProtocolError, busy

ANSWER_SECONDS = 0.5
_WINDOW_SECONDS = 60
# DynamoDB deletes what has expired within days; it is never asked for after its minute.
_KEPT_SECONDS = 600
_REFUSED = "ConditionalCheckFailedException"


class Uncounted(Exception):
    """The table gave no answer; the message is the kind of failure."""


@dataclass
class CountsClient(AwsClient):
    """Calls DynamoDB.

    Attributes:
        answer_seconds: how long an answer may take.
    """

    answer_seconds: float = ANSWER_SECONDS

    service, host, variable = "dynamodb", "dynamodb", "AWS_ENDPOINT_URL_DYNAMODB"

    def update_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of UpdateItem.

        Raises:
            EndpointError, NotConnected, ConnectionFailed, TooSlow.
        """
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "DynamoDB_20120810.UpdateItem"}
        body = self.post("/", json.dumps(parameters).encode(), lambda _: headers, time.monotonic() + self.answer_seconds)
        answer: dict[str, Any] = json.loads(body)
        return answer


@dataclass(frozen=True, slots=True)
class Standing:
    """What a key has left.

    Attributes:
        limit: documents a minute.
        left: of them, after this request.
        seconds: until the next minute.
    """

    limit: int
    left: int
    seconds: int

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers that say so."""
        values = {"Limit": self.limit, "Remaining": self.left, "Reset": self.seconds}
        return {f"X-RateLimit-{name}": str(value) for name, value in values.items()}


class DocumentCounts:
    """The counts of all keys.

    Args:
        table: its name; the key is ``id``.
        client: asks it.
        clock: tells the seconds since 1970.
    """

    def __init__(self, table: str, client: CountsClient, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._client = client
        self._clock = clock

    def count(self, key_id: str, documents: int, limit: int) -> Standing:
        """Count documents of a key, and return what it has left of this minute.

        Args:
            key_id: API Gateway's id of the key: never the key.
            documents: of the request; at most ``limit``.
            limit: documents a minute.

        Raises:
            ProtocolError: 429 when the minute has not as many left; then none of them is counted.
            Uncounted: the table gave no answer.
        """
        now = self._clock()
        minute = int(now // _WINDOW_SECONDS)
        seconds = max(1, (minute + 1) * _WINDOW_SECONDS - int(now))
        try:
            answer = self._client.update_item(
                {
                    "TableName": self._table,
                    "Key": {"id": {"S": f"{key_id}/{minute}"}},
                    "UpdateExpression": "ADD documents :n SET expires = :expires",
                    "ConditionExpression": "attribute_not_exists(documents) OR documents <= :most",
                    "ExpressionAttributeValues": {
                        ":n": {"N": str(documents)},
                        ":most": {"N": str(limit - documents)},
                        ":expires": {"N": str(int(now) + _KEPT_SECONDS)},
                    },
                    "ReturnValues": "UPDATED_NEW",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            )
            return Standing(limit, max(0, limit - _documents(answer["Attributes"])), seconds)
        except EndpointError as error:
            if error.code != _REFUSED:
                raise Uncounted(error.code) from None
            item = error.members.get("Item")
            left = max(0, limit - _documents(item)) if item else 0
            raise _used_up(documents, Standing(limit, left, seconds)) from None
        except (NotConnected, ConnectionFailed, TooSlow) as error:
            raise Uncounted(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise Uncounted(f"unreadable answer: {type(error).__name__}") from None


def _documents(item: dict[str, Any]) -> int:
    return int(item["documents"]["N"])


def _used_up(documents: int, standing: Standing) -> ProtocolError:
    left = f"{standing.left} of {standing.limit} documents are left to this key in this minute, and the request has {documents}"
    error = busy(f"{left}: come again in {standing.seconds} s", standing.seconds)
    error.headers |= standing.headers
    return error
