"""The key of a request, wherever rerank clients put it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "lambda" / "authorizer"
KEY = "k" * 19 + "Z"
ARN = "arn:aws:execute-api:ap-northeast-2:123456789012:a1b2c3/live/POST/v2/rerank"


@pytest.fixture(scope="module")
def handler():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("authorizer_handler", FOLDER / "handler.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module.handler
    finally:
        sys.path.remove(str(FOLDER))


def event(headers: dict | None) -> dict:
    return {"type": "REQUEST", "methodArn": ARN, "headers": headers}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"Authorization": KEY},
        {"X-Api-Key": KEY},
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"Authorization": "Basic dXNlcg==", "x-api-key": KEY},
        {"Authorization": "Bearer dummy", "Api-Key": KEY},
        {"Authorization": f"Bearer hf_{'a' * 34}", "x-api-key": KEY},
        {"Authorization": f"Bearer {'b' * 40}", "api-key": KEY},
        {"Authorization": f"Bearer {KEY}", "x-api-key": f"sk-{'c' * 40}"},
        {"Authorization": f"Bearer {KEY}", "x-api-key": f"hf_{'a' * 34}", "api-key": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"},
    ],
)
def test_a_key_is_found_in_every_header_that_clients_use(handler, headers):
    answer = handler(event(headers), None)
    assert answer["usageIdentifierKey"] == KEY
    statement = answer["policyDocument"]["Statement"][0]
    assert statement["Effect"] == "Allow"
    assert statement["Resource"] == "arn:aws:execute-api:ap-northeast-2:123456789012:a1b2c3/live/*"


def test_a_key_that_begins_as_ours_counts_wherever_it_is(handler):
    ours = f"kor_{'d' * 40}"
    for headers in ({"Authorization": ours, "x-api-key": KEY}, {"x-api-key": ours, "Authorization": KEY, "api-key": KEY}):
        assert handler(event(headers), None)["usageIdentifierKey"] == ours


def test_the_principal_names_the_caller_without_telling_the_key(handler):
    first, second = (handler(event({"x-api-key": key}), None) for key in (KEY, "y" * 30))
    assert first["principalId"] != second["principalId"]
    assert KEY not in json.dumps({name: value for name, value in first.items() if name != "usageIdentifierKey"})


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"x-api-key": "k" * 19},
        {"x-api-key": "k" * 129},
        {"x-api-key": "키" * 20},
        {"x-api-key": "k" * 20 + "\n" + "k"},
        {"Authorization": "Basic " + "k" * 30},
        {"x-api-key": None},
        {"cookie": KEY},
    ],
)
def test_without_a_usable_key_the_answer_is_a_401(handler, headers):
    with pytest.raises(Exception, match=r"^Unauthorized$"):
        handler(event(headers), None)


@pytest.mark.parametrize(
    ("key", "tier"),
    [
        ("kor_trial_" + "a1" * 20, "trial"),
        ("kor_trial_" + "_-" * 20, "trial"),
        ("kor_big-spender-2_" + "A1" * 20, "big-spender-2"),
        (KEY, ""),
        ("a1" * 20, ""),
        ("kor_" + "a1" * 20, ""),
        ("trial_" + "a" * 40, ""),
        ("kor_trial_" + "a" * 19, ""),
        ("kor_Trial_" + "a" * 40, ""),
        ("kor__" + "a" * 40, ""),
        (f"kor_{'t' * 31}_{'a' * 40}", ""),
    ],
)
def test_the_tier_is_read_out_of_the_key(handler, key, tier):
    assert handler(event({"x-api-key": key}), None)["context"] == {"tier": tier}
