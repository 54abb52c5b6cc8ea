"""What becomes of the things that hold data when they leave the stack: kept where ``data.retain`` is set, else deleted."""

from __future__ import annotations

import aws_cdk as cdk

from ko_reranker.settings import Settings


def kept(settings: Settings) -> cdk.RemovalPolicy:
    """The removal policy of what ``data.retain`` keeps."""
    return cdk.RemovalPolicy.RETAIN if settings.data.retain else cdk.RemovalPolicy.DESTROY


def kept_under_its_name(settings: Settings) -> cdk.RemovalPolicy:
    """The removal policy of what ``data.retain`` keeps under a name of ours.

    Retain holds also when the very first deploy fails: what it had made stays behind, and every later deploy finds the name
    taken. RetainExceptOnCreate gives the name back then.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
    """
    return cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if settings.data.retain else cdk.RemovalPolicy.DESTROY
