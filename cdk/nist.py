"""NIST 800-53 Rev. 5 by cdk-nag: what it finds and stays, each rule with where and why.

The AwsSolutions pack's findings are acknowledged beside what they excuse; these go by kind, since most are one decision that
holds for every function, log or role.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import aws_cdk as cdk
import cdk_nag

# (rules, pattern of the resources' paths, reason)
_ACCEPTED = (
    (
        ("IAMNoInlinePolicy",),
        "*",
        "A role's policy is written for that role and goes with it: shared, it would allow what somebody else needs.",
    ),
    (
        ("CloudWatchLogGroupEncrypted",),
        "*",
        "CloudWatch encrypts logs itself; none of these holds a text, a key or a header with one.",
    ),
    (
        ("LambdaDLQ",),
        "*",
        "Functions are called by API Gateway, Step Functions and CloudFormation, which hear of a failure at once; what a rule "
        "can't deliver goes to the rule's own queue.",
    ),
    (
        ("LambdaConcurrency",),
        "*",
        "API Gateway's throttles bound the rerank function, the map's concurrency the shards; a reservation would take from "
        "the account what others may need.",
    ),
    (
        ("LambdaInsideVPC",),
        "*",
        "In a VPC by the setting network.vpc; the function that starts image builds calls CodeBuild, and stays outside.",
    ),
    (
        ("VPCNoUnrestrictedRouteToIGW",),
        "*/PublicSubnet?/DefaultRoute",
        "By the setting network.egress: the public subnets hold the NAT gateway and nothing else.",
    ),
    (("VPCDefaultSecurityGroupClosed",), "*/Vpc/Resource", "Nothing is put into the default group: each thing names its own."),
    (
        ("EC2RestrictedCommonPorts", "EC2RestrictedSSH"),
        "*/Compute/*",
        "Hosts of a training talk to each other on ports of their choice, within the group alone.",
    ),
    (
        ("S3BucketReplicationEnabled",),
        "*",
        "Datasets and models can be made again or come from elsewhere; another region's copy is the account's to decide.",
    ),
    (
        ("S3BucketVersioningEnabled", "S3DefaultEncryptionKMS"),
        "*/AccessLogs/Resource",
        "Access logs are written once and expire, and S3 can't deliver them to a bucket under a customer key.",
    ),
    (
        ("DynamoDBPITREnabled", "DynamoDBInBackupPlan"),
        "*/DocumentCounts/Resource",
        "It holds the counts of the present minute, which nobody restores.",
    ),
    (("DynamoDBInBackupPlan",), "*", "Point-in-time recovery is on; a backup plan is the setting data.backup_days."),
    (
        ("SageMakerEndpointConfigurationKMSKeyConfigured",),
        "*",
        "GPU instances with local NVMe storage, which is encrypted by hardware, refuse a key for their volume.",
    ),
    (
        ("SecretsManagerUsingKMSKey", "SecretsManagerRotationEnabled"),
        "*/OriginKey?/Resource",
        "CloudFormation reads it while it deploys; a deploy with another api.origin_key rotates it, and CloudFront with it.",
    ),
    (
        ("APIGWCacheEnabledAndEncrypted",),
        "*",
        "Answers depend on the body and the key of each request: none may be kept for another.",
    ),
    (
        ("APIGWExecutionLoggingEnabled",),
        "*",
        "The access log tells who asked what; execution logs would hold keys.",
    ),
    (("APIGWSSLEnabled",), "*", "The backend is a function, which API Gateway calls by IAM and not by a certificate."),
    (("APIGWAssociatedWithWAF",), "*", "A web ACL is the setting api.waf_requests_per_5_minutes."),
    (("CloudFrontDistributionAccessLogging",), "*", "API Gateway's access log holds every request that passes."),
)


def add_nist_checks(app: cdk.App) -> None:
    """Let the synth of an app fail at a finding of NIST 800-53 Rev. 5 that isn't accepted here."""
    accepted = cdk.Validations.of
    for construct in app.node.find_all():
        if not isinstance(construct, cdk.CfnResource):
            continue
        for rules, where, reason in _ACCEPTED:
            if fnmatchcase(construct.node.path, where) and _concerns(rules, construct.cfn_resource_type):
                accepted(construct).acknowledge(
                    *(cdk.Acknowledgment(id=f"NIST.800.53.R5::NIST.800.53.R5-{rule}", reason=reason) for rule in rules)
                )
    cdk.Validations.of(app).add_plugins(cdk_nag.NIST80053R5Checks(app))


# What begins the name of the rules about a type of resource.
_ABOUT = {
    "APIGW": "AWS::ApiGateway::Stage",
    "CloudFront": "AWS::CloudFront::Distribution",
    "CloudWatchLog": "AWS::Logs::LogGroup",
    "DynamoDB": "AWS::DynamoDB::Table",
    "EC2": "AWS::EC2::SecurityGroup",
    "IAM": "AWS::IAM::",
    "Lambda": "AWS::Lambda::Function",
    "S3": "AWS::S3::Bucket",
    "SageMaker": "AWS::SageMaker::EndpointConfig",
    "Secrets": "AWS::SecretsManager::Secret",
    "VPC": "AWS::EC2::",
}


def _concerns(rules: tuple[str, ...], kind: str) -> bool:
    return any(rules[0].startswith(name) and kind.startswith(about) for name, about in _ABOUT.items())
