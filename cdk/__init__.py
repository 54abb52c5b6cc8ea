"""The infrastructure: stacks by lifecycle, provisioned by the AWS CDK."""

import os

# The CDK's JavaScript half prints a boxed warning on Node 20 at every synth; package.json and the README say what we need.
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "1")
