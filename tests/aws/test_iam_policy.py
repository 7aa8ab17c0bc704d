"""The IAM policy allows exactly what the code calls."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.session import Session

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "cloud" / "aws"
POLICY = ROOT / "docs" / "iam-policy.json"
GUIDE = ROOT / "docs" / "aws-iam.md"

TRIES = "permissions.py"
"""Tries each permission by a call that it does not need itself."""

PREFIXES = {"elb": "elasticloadbalancing", "service-quotas": "servicequotas"}
"""Of actions, where they are not called as boto3 calls the service."""
FREE = {("sts", "GetCallerIdentity")}
"""Calls that need no permission."""
IMPLIED = {
    ("ec2", "RunInstances"): {"ec2:CreateTags", "iam:CreateServiceLinkedRole"},
    ("ec2", "CreateSecurityGroup"): {"ec2:CreateTags"},
    ("elb", "CreateLoadBalancer"): {"elasticloadbalancing:AddTags", "iam:CreateServiceLinkedRole"},
    ("route53", "CreateHostedZone"): {"ec2:DescribeVpcs"},
}
"""What else a call needs as we make it: tags in it, spot and the first load balancer, the zone's VPC."""
POLICY_CHARACTERS = 6144
"""What AWS allows, white space apart."""

Call = tuple[str, str]


@cache
def operations(service: str) -> frozenset[str]:
    """All operations that boto3 knows of a service."""
    return frozenset(Session().get_service_model(service).operation_names)


@cache
def services() -> frozenset[str]:
    return frozenset(Session().get_available_services())


def calls_in(source: str) -> set[Call]:
    """The API calls that a module names: every literal that is an operation of a service that the module names, too."""
    literals = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    texts = {literal for literal in literals if isinstance(literal, str)}
    named = texts & services()
    return {(service, text) for service in named for text in texts & operations(service)}


def calls() -> set[Call]:
    return {call for path in SOURCES.glob("*.py") if path.name != TRIES for call in calls_in(path.read_text())}


def action(call: Call) -> str:
    service, operation = call
    return f"{PREFIXES.get(service, service)}:{operation}"


def needed(made: set[Call]) -> set[str]:
    own = {action(call) for call in made - FREE}
    return own | {implied for call in made for implied in IMPLIED.get(call, ())}


def policy() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(POLICY.read_text())
    return found


def allowed() -> list[str]:
    return [one for statement in policy()["Statement"] for one in statement["Action"]]


def test_every_call_of_the_code_is_allowed_and_nothing_else() -> None:
    missing, unused = needed(calls()) - set(allowed()), set(allowed()) - needed(calls())
    assert not missing, f"add to {POLICY.name}: {sorted(missing)}"
    assert not unused, f"remove from {POLICY.name}: {sorted(unused)}"


def test_a_call_is_found_wherever_its_name_stands() -> None:
    source = """
async def f(aws, name):
    await aws.call("ec2", "DescribeVpcs", Filters=[])
    await g("TerminateInstances", "InstanceIds")
    await aws.call("ec2", "NoSuchOperation", DescribeTags="not a literal of its own")
"""
    assert calls_in(source) == {("ec2", "DescribeVpcs"), ("ec2", "TerminateInstances")}


def test_no_call_hides_its_name() -> None:
    """What is sent is one of the literals that the test above collects: no name is put together."""
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("call", "pages"):
                for argument in node.args[:2]:
                    assert isinstance(argument, (ast.Constant, ast.Name, ast.Attribute)), f"{path.name}:{node.lineno}"


def test_each_action_stands_once_and_exists() -> None:
    found = allowed()
    assert len(found) == len(set(found))
    by_prefix = {prefix: service for service, prefix in PREFIXES.items()}
    for one in found:
        prefix, _, operation = one.partition(":")
        assert operation in operations(by_prefix.get(prefix, prefix)), f"{one} does not exist"


def test_actions_are_sorted_within_their_statement() -> None:
    for statement in policy()["Statement"]:
        assert statement["Action"] == sorted(statement["Action"]), statement["Sid"]


def test_what_can_be_limited_to_our_own_things_is() -> None:
    statements = {statement["Sid"]: statement for statement in policy()["Statement"]}
    assert statements["ClusterNames"]["Resource"].endswith(":table/MilpaClusters")
    assert statements["LoadBalancers"]["Resource"].endswith(":loadbalancer/milpa-*")
    assert statements["ServiceRoles"]["Condition"]["StringEquals"]["iam:AWSServiceName"]
    for statement in statements.values():
        assert statement["Effect"] == "Allow"
        for one in statement["Action"]:
            limited = one.startswith(("dynamodb:", "iam:")) or re.match(r"elasticloadbalancing:(?!Describe)", one)
            assert bool(limited) == (statement["Resource"] != "*"), f"{one} in {statement['Sid']}"


def test_instances_get_no_role_so_that_none_is_to_be_passed() -> None:
    assert not any("IamInstanceProfile" in path.read_text() for path in SOURCES.glob("*.py"))


def test_the_policy_fits_into_one() -> None:
    assert len(re.sub(r"\s", "", POLICY.read_text())) <= POLICY_CHARACTERS


@pytest.mark.parametrize("statement", [statement["Sid"] for statement in policy()["Statement"]])
def test_the_guide_says_what_each_statement_is_for(statement: str) -> None:
    assert any(line.startswith("| `") and f"`{statement}`" in line for line in GUIDE.read_text().splitlines())
