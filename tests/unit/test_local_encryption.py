"""Tables and topics of a template keep their KMS keys, so that IAM evaluation asks for the right to use them."""

# ruff: noqa: SLF001 - MiniStack has public names for its services alone, and these change what is below them.
from __future__ import annotations

import pytest
from ministack import app
from ministack.services import dynamodb, sns
from ministack.services.cloudformation import provisioners

from local_cloud import extensions
from local_cloud.extensions import iam

KEY = "arn:aws:kms:ap-northeast-2:000000000000:key/0f8f2f2e-0000-4000-8000-000000000000"
TABLE = {
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    extensions.install(app)


def handlers(kind: str) -> dict:
    return provisioners._RESOURCE_HANDLERS[kind]


def test_a_tables_key_is_needed_for_its_items() -> None:
    # CloudFormation hands over booleans as text.
    specification = {"SSEEnabled": "true", "SSEType": "KMS", "KMSMasterKeyId": KEY}
    name, attributes = handlers("AWS::DynamoDB::Table")["create"]("Table", {**TABLE, "SSESpecification": specification}, "s")
    try:
        assert dynamodb._tables[name]["SSEDescription"] == {"Status": "ENABLED", "SSEType": "KMS", "KMSMasterKeyArn": KEY}
        assert list(iam.keys_needed("dynamodb:GetItem", attributes["Arn"])) == [("kms:Decrypt", KEY)]
    finally:
        del dynamodb._tables[name]


def test_a_table_without_a_key_needs_none() -> None:
    name, attributes = handlers("AWS::DynamoDB::Table")["create"]("Table", TABLE, "s")
    try:
        assert not list(iam.keys_needed("dynamodb:GetItem", attributes["Arn"]))
    finally:
        del dynamodb._tables[name]


def test_a_topics_key_comes_and_goes_with_the_template() -> None:
    topic = handlers("AWS::SNS::Topic")
    props = {"TopicName": "news", "KmsMasterKeyId": KEY}
    arn, _ = topic["create"]("Topic", props, "s")
    try:
        assert {action for action, _ in iam.keys_needed("sns:Publish", arn)} == {"kms:GenerateDataKey", "kms:Decrypt"}
        topic["update"](arn, props, {"TopicName": "news"}, "s", logical_id="Topic")
        assert not list(iam.keys_needed("sns:Publish", arn))
    finally:
        del sns._topics[arn]
