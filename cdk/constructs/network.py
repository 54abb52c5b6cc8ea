"""A VPC for everything that computes, with a way to the services that are called and to nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct, IConstruct

from cdk.constructs.permissions import allow
from cdk.constructs.python_function import PythonFunction
from ko_reranker.operations.called import GATEWAYS, INTERFACES
from ko_reranker.settings import Network

_HTTPS = ec2.Port.tcp(443)


class Vpc(Construct):
    """Private subnets, a security group for what computes, and endpoints that take calls from that group alone.

    Attributes:
        config: the subnets and the group, as SageMaker's ``VpcConfig``.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Network) -> None:
        super().__init__(scope, construct_id)
        vpc, subnets, route_tables = self._made(settings) if settings.vpc == "new" else self._given(settings)
        compute = ec2.SecurityGroup(
            self, "Compute", vpc=vpc, description="What computes - functions, jobs, endpoint", allow_all_outbound=False
        )
        compute.add_egress_rule(ec2.Peer.any_ipv4(), _HTTPS, "services, as far as the subnets' routes go")
        # The hosts of a training talk to each other on ports that they choose, within IPsec.
        compute.add_ingress_rule(compute, ec2.Port.all_traffic(), "hosts of a training")
        compute.add_egress_rule(compute, ec2.Port.all_traffic(), "hosts of a training")
        self.config = {"Subnets": list(subnets), "SecurityGroupIds": [compute.security_group_id]}
        if settings.make_endpoints:
            self._endpoints(vpc, subnets, route_tables, compute)

    def put_functions_in(self, scope: IConstruct) -> None:
        """Let every function of ours below a scope run here."""
        for construct in scope.node.find_all():
            if isinstance(construct, PythonFunction):
                function = construct.function.node.default_child
                assert isinstance(function, lambda_.CfnFunction)  # noqa: S101 - what the construct is made of
                function.vpc_config = lambda_.CfnFunction.VpcConfigProperty(
                    subnet_ids=self.config["Subnets"], security_group_ids=self.config["SecurityGroupIds"]
                )
                allow_network_interfaces(construct.role)

    def _made(self, settings: Network) -> tuple[ec2.IVpc, Sequence[str], Sequence[str]]:
        types = ec2.SubnetType
        private = types.PRIVATE_WITH_EGRESS if settings.egress else types.PRIVATE_ISOLATED
        kinds = [ec2.SubnetConfiguration(name="Private", subnet_type=private, cidr_mask=20)]
        if settings.egress:  # where the NAT gateway stands, and nothing else
            kinds.append(
                ec2.SubnetConfiguration(name="Public", subnet_type=types.PUBLIC, cidr_mask=28, map_public_ip_on_launch=False)
            )
        zones = {"availability_zones": list(settings.availability_zones)} if settings.availability_zones else {"max_azs": 2}
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(settings.cidr),
            subnet_configuration=kinds,
            nat_gateways=1 if settings.egress else 0,
            **zones,
        )
        refused = logs.LogGroup(
            self, "Refused", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=cdk.RemovalPolicy.DESTROY
        )
        vpc.add_flow_log(
            "FlowLog",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(refused),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        subnets = vpc.private_subnets if settings.egress else vpc.isolated_subnets
        return vpc, [subnet.subnet_id for subnet in subnets], [subnet.route_table.route_table_id for subnet in subnets]

    def _given(self, settings: Network) -> tuple[ec2.IVpc, Sequence[str], Sequence[str]]:
        # The zones are asked for and not used: subnets go by their ids.
        vpc = ec2.Vpc.from_vpc_attributes(
            self, "Given", vpc_id=settings.vpc_id or "", availability_zones=[cdk.Fn.select(0, cdk.Fn.get_azs())]
        )
        return vpc, settings.subnet_ids, settings.route_table_ids

    def _endpoints(
        self, vpc: ec2.IVpc, subnets: Sequence[str], route_tables: Sequence[str], callers: ec2.ISecurityGroup
    ) -> None:
        called = ec2.SecurityGroup(self, "Endpoints", vpc=vpc, description="Endpoints of services", allow_all_outbound=False)
        called.add_ingress_rule(callers, _HTTPS, "calls of what computes here")
        region = cdk.Stack.of(self).region
        for name in GATEWAYS:
            ec2.CfnVPCEndpoint(
                self,
                f"{name.capitalize()}Gateway",
                vpc_id=vpc.vpc_id,
                service_name=f"com.amazonaws.{region}.{name}",
                vpc_endpoint_type="Gateway",
                route_table_ids=list(route_tables),
            )
        for name in INTERFACES:
            ec2.CfnVPCEndpoint(
                self,
                f"{name.title().replace('.', '')}Interface",
                vpc_id=vpc.vpc_id,
                service_name=f"com.amazonaws.{region}.{name}",
                vpc_endpoint_type="Interface",
                subnet_ids=list(subnets),
                security_group_ids=[called.security_group_id],
                private_dns_enabled=True,
            )


def allow_network_interfaces(role: iam.Role) -> None:
    """Let SageMaker or Lambda, in a role's name, put a container or a function into a VPC, and take it out again.

    https://docs.aws.amazon.com/sagemaker/latest/dg/sagemaker-roles.html
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html
    """
    allow(
        role,
        *(f"ec2:{verb}NetworkInterface{kind}" for verb in ("Create", "Delete") for kind in ("", "Permission")),
        *(f"ec2:Describe{kind}" for kind in ("NetworkInterfaces", "Vpcs", "DhcpOptions", "Subnets", "SecurityGroups")),
        on=["*"],
        because="Interfaces get their ids when they are made, and descriptions know no resources.",
    )
