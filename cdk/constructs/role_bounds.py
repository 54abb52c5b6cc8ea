"""The boundary and the path of every role, whoever makes it: the stacks, the CDK, a construct of somebody else's."""

from __future__ import annotations

import aws_cdk as cdk

from ko_reranker.settings import Identity

_ROLE = "AWS::IAM::Role"


def bound_roles(app: cdk.App, identity: Identity) -> None:
    """Put the settings' permissions boundary and path onto all roles of an app, which has to be synthesised by force then."""
    properties = {"PermissionsBoundary": identity.permissions_boundary, "Path": identity.role_path}
    wanted = {name: value for name, value in properties.items() if value not in (None, "/")}
    if not wanted:
        return
    # References between regions become functions, with roles, only while the app is synthesised.
    app.synth(skip_validation=True)
    for construct in app.node.find_all():
        if isinstance(construct, cdk.CfnResource) and construct.cfn_resource_type == _ROLE:
            for name, value in wanted.items():
                construct.add_property_override(name, value)
