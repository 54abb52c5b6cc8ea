"""`make test-aws`: a stage of its own in your account, from bootstrap to destroy; asks first, and writes a report."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import boto3
from journey import Journey, Report, cdk

from ko_reranker.operations.errors import OperationError
from ko_reranker.operations.project import Project
from ko_reranker.operations.stage import Stage

ROOT = Path(__file__).parents[2]
# A name of its own: a dev stage that you have is not touched.
NAME = "ko-reranker-try"
PRICE = """\
In about an hour, at list prices of Seoul as we know them (they change, so check):
  building the image in CodeBuild, half an hour      about $1
  an ml.m5.xlarge endpoint, an hour                  about $0.30
  three ml.m5.xlarge jobs of some minutes            about $0.20
  translating 60 records                             about $2 (stops at $5)
  KMS key, requests, storage, until it is destroyed  under $0.10
Some $4 altogether. If it is killed, `npx cdk destroy --all -c stage=dev -c name=ko-reranker-try` takes the rest away."""


def main() -> int:
    project = Project.find(ROOT)
    project.context["settings"]["dev"]["name"] = NAME
    region = project.settings("dev").region
    session = boto3.session.Session(region_name=region)
    if session.get_credentials() is None:
        print("no AWS credentials: run `aws configure`, `aws sso login`, or set AWS_PROFILE", file=sys.stderr)
        return 2
    account = session.client("sts").get_caller_identity()["Account"]
    print(f"This deploys the stage {NAME}-dev into account {account}, {region}, uses it and takes it away again.\n{PRICE}")
    if not sys.stdin.isatty() or input("Type yes to begin: ").strip() != "yes":
        print("Not begun: nothing was deployed.")
        return 1
    report = Report("aws", region, ROOT / "build" / "test-aws" / time.strftime("%Y%m%d-%H%M%S"))
    common = {"stage": "dev", "name": NAME}
    qualifier = project.settings("dev").identity.bootstrap_qualifier
    journey = Journey(
        report,
        lambda: Stage.connect("dev", project),
        bootstrap=lambda: cdk(ROOT, "bootstrap", "--qualifier", qualifier, f"aws://{account}/{region}", settings=common),
        deploy=lambda settings: cdk(ROOT, "deploy", "--all", "--require-approval", "never", settings={**common, **settings}),
    )
    well = journey.run()
    print(f"The report, to attach to an issue: {report.folder}/report.md and report.json")
    return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OperationError, KeyboardInterrupt) as error:
        sys.exit(f"stopped: {error}")
