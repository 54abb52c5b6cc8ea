"""S3 bucket properties that MiniStack 1.5.33's CloudFormation drops, and the bucket that it can't delete on AWS.

Versioning, CORS, public access, website and notifications arrive; encryption, lifecycle rules, ownership and access
logging don't. They are applied here through MiniStack's own S3 API, so that GetBucketEncryption and its siblings answer
with what the template says, and a bucket's KMS key takes part in IAM evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from ministack.services import s3
from ministack.services.cloudformation import provisioners

from local_cloud.extensions.patching import Patcher

PATCHED = (("ministack.services.cloudformation.provisioners", "_RESOURCE_HANDLERS"),)


def _text(parent: Element, tag: str, value: Any) -> None:
    if value is not None:
        SubElement(parent, tag).text = str(value).lower() if isinstance(value, bool) else str(value)


def encryption_xml(encryption: dict[str, Any]) -> bytes | None:
    """BucketEncryption as the body of PutBucketEncryption; None for ``aws:kms`` with AWS's own key.

    MiniStack can't encrypt without a key's id, and the AWS managed key needs no permission of the caller.
    """
    root = Element("ServerSideEncryptionConfiguration", xmlns=s3.S3_NS)
    for rule in encryption.get("ServerSideEncryptionConfiguration") or []:
        default = rule.get("ServerSideEncryptionByDefault") or {}
        if default.get("SSEAlgorithm") == "aws:kms" and not default.get("KMSMasterKeyID"):
            continue
        rule_element = SubElement(root, "Rule")
        by_default = SubElement(rule_element, "ApplyServerSideEncryptionByDefault")
        _text(by_default, "SSEAlgorithm", default.get("SSEAlgorithm"))
        _text(by_default, "KMSMasterKeyID", default.get("KMSMasterKeyID"))
        _text(rule_element, "BucketKeyEnabled", rule.get("BucketKeyEnabled"))
    return tostring(root, encoding="utf-8") if len(root) else None


def lifecycle_xml(configuration: dict[str, Any]) -> bytes:
    """LifecycleConfiguration as the body of PutBucketLifecycleConfiguration."""
    root = Element("LifecycleConfiguration", xmlns=s3.S3_NS)
    for number, rule in enumerate(configuration.get("Rules") or []):
        element = SubElement(root, "Rule")
        _text(element, "ID", rule.get("Id", f"rule-{number}"))
        _text(SubElement(element, "Filter"), "Prefix", rule.get("Prefix", ""))
        _text(element, "Status", rule.get("Status", "Enabled"))
        transitions = [*(rule.get("Transitions") or []), *([rule["Transition"]] if "Transition" in rule else [])]
        for transition in transitions:
            transition_element = SubElement(element, "Transition")
            _text(transition_element, "Days", transition.get("TransitionInDays"))
            _text(transition_element, "Date", transition.get("TransitionDate"))
            _text(transition_element, "StorageClass", transition.get("StorageClass"))
        if any(name in rule for name in ("ExpirationInDays", "ExpirationDate", "ExpiredObjectDeleteMarker")):
            expiration = SubElement(element, "Expiration")
            _text(expiration, "Days", rule.get("ExpirationInDays"))
            _text(expiration, "Date", rule.get("ExpirationDate"))
            _text(expiration, "ExpiredObjectDeleteMarker", rule.get("ExpiredObjectDeleteMarker"))
        _noncurrent(element, rule)
        if "AbortIncompleteMultipartUpload" in rule:
            days = rule["AbortIncompleteMultipartUpload"].get("DaysAfterInitiation")
            _text(SubElement(element, "AbortIncompleteMultipartUpload"), "DaysAfterInitiation", days)
    return tostring(root, encoding="utf-8")


def _noncurrent(element: Element, rule: dict[str, Any]) -> None:
    for transition in rule.get("NoncurrentVersionTransitions") or []:
        transition_element = SubElement(element, "NoncurrentVersionTransition")
        _text(transition_element, "NoncurrentDays", transition.get("TransitionInDays"))
        _text(transition_element, "StorageClass", transition.get("StorageClass"))
    expiration = rule.get("NoncurrentVersionExpiration") or {}
    days = expiration.get("NoncurrentDays", rule.get("NoncurrentVersionExpirationInDays"))
    if days is not None:
        expiration_element = SubElement(element, "NoncurrentVersionExpiration")
        _text(expiration_element, "NoncurrentDays", days)
        _text(expiration_element, "NewerNoncurrentVersions", expiration.get("NewerNoncurrentVersions"))


def ownership_xml(controls: dict[str, Any]) -> bytes:
    """OwnershipControls as the body of PutBucketOwnershipControls."""
    root = Element("OwnershipControls", xmlns=s3.S3_NS)
    for rule in controls.get("Rules") or []:
        _text(SubElement(root, "Rule"), "ObjectOwnership", rule.get("ObjectOwnership"))
    return tostring(root, encoding="utf-8")


def logging_xml(configuration: dict[str, Any]) -> bytes:
    """LoggingConfiguration as the body of PutBucketLogging."""
    root = Element("BucketLoggingStatus", xmlns=s3.S3_NS)
    if configuration.get("DestinationBucketName"):
        enabled = SubElement(root, "LoggingEnabled")
        _text(enabled, "TargetBucket", configuration["DestinationBucketName"])
        SubElement(enabled, "TargetPrefix").text = configuration.get("LogFilePrefix", "")
    return tostring(root, encoding="utf-8")


# Property, its XML, the API that stores it, and the API that removes it.
_CONFIGURATIONS: tuple[tuple[str, Callable[[dict[str, Any]], bytes | None], Callable[..., Any], Callable[..., Any]], ...] = (
    ("BucketEncryption", encryption_xml, s3._put_bucket_encryption, s3._delete_bucket_encryption),
    ("LifecycleConfiguration", lifecycle_xml, s3._put_bucket_lifecycle, s3._delete_bucket_lifecycle),
    ("OwnershipControls", ownership_xml, s3._put_bucket_ownership_controls, s3._delete_bucket_ownership_controls),
    ("LoggingConfiguration", logging_xml, s3._put_bucket_logging, lambda name: s3._put_bucket_logging(name, logging_xml({}))),
)


def apply_configurations(name: str, props: dict[str, Any], old_props: dict[str, Any] | None = None) -> None:
    """Store the properties; one that the new template lacks is removed."""
    for prop, to_xml, put, delete in _CONFIGURATIONS:
        if prop in props:
            body = to_xml(props[prop] or {})
            status, _, answer = put(name, body) if body is not None else (200, {}, b"")
            if status >= 300:
                raise ValueError(f"AWS::S3::Bucket {prop} refused: {answer!r}")
        elif prop in (old_props or {}):
            delete(name)


def _extend_handlers(handlers: dict[str, Any]) -> dict[str, Any]:
    bucket = handlers["AWS::S3::Bucket"]
    forget_bucket = bucket["delete"]
    create_bucket, update_bucket = bucket["create"], bucket["update"]

    def create(logical_id: str, props: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        name, attributes = create_bucket(logical_id, props, stack)
        apply_configurations(name, props)
        return name, attributes

    def update(
        physical_id: str, old_props: dict[str, Any], new_props: dict[str, Any], stack: str
    ) -> tuple[str, dict[str, Any]]:
        name, attributes = update_bucket(physical_id, old_props, new_props, stack)
        apply_configurations(name, new_props, old_props)
        return name, attributes

    def delete(physical_id: str, props: dict[str, Any]) -> None:
        # MiniStack drops a bucket with all there is in it; S3 refuses one that holds an object, a version or a delete marker.
        status, _, _ = s3._delete_bucket(physical_id)
        if status == 409:
            raise ValueError(
                "The bucket you tried to delete is not empty. You must delete all versions in the bucket. (Service: S3, Status "
                "Code: 409, Error Code: BucketNotEmpty)"
            )
        forget_bucket(physical_id, props)

    bucket.update(create=create, update=update, delete=delete)
    return handlers


def install(patch: Patcher) -> None:
    """Apply the dropped bucket properties."""
    patch.replace(provisioners, "_RESOURCE_HANDLERS", _extend_handlers)
