"""Every error code that AWS may answer becomes one of the domain's, the way the capacity table says."""

import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError

from cloud.aws import errors
from cloud.aws.errors import translate, translate_launch
from milpa_ray.errors import (
    CapacityScope,
    CloudNotReady,
    CloudRefused,
    CloudThrottled,
    CloudUnavailable,
    LaunchOutdated,
    LaunchRejected,
    MilpaError,
    NoCapacity,
    Retryable,
)


def answered(code: str, message: str = "so it is", status: int = 400) -> MilpaError:
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated = translate("ec2", "RunInstances", exceptions.ClientError(response, "RunInstances"))
    assert translated is not None
    return translated


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("RequestLimitExceeded", 503, CloudThrottled),
        ("Throttling", 400, CloudThrottled),
        ("ThrottlingException", 400, CloudThrottled),
        ("InternalError", 500, CloudUnavailable),
        ("Unavailable", 503, CloudUnavailable),
        ("SomethingNew", 502, CloudUnavailable),
        ("", 500, CloudUnavailable),
        ("AuthFailure", 401, CloudNotReady),
        ("ExpiredToken", 400, CloudNotReady),
        ("UnauthorizedOperation", 403, CloudNotReady),
        ("403", 403, CloudNotReady),
        ("OptInRequired", 403, CloudNotReady),
        ("InvalidParameterValue", 400, CloudRefused),
    ],
)
def test_a_calls_error_by_its_code(code: str, status: int, kind: type[MilpaError]) -> None:
    assert isinstance(answered(code, status=status), kind)


@pytest.mark.parametrize(
    ("code", "scope"),
    [
        ("InsufficientInstanceCapacity", CapacityScope.TYPE),
        ("UnfulfillableCapacity", CapacityScope.TYPE),
        ("InsufficientFreeAddressesInSubnet", CapacityScope.SUBNET),
        ("InsufficientAddressCapacity", CapacityScope.SUBNET),
        ("InstanceLimitExceeded", CapacityScope.FAMILY),
        ("VcpuLimitExceeded", CapacityScope.FAMILY),
        ("MaxSpotInstanceCountExceeded", CapacityScope.SPOT),
        ("SpotMaxPriceTooLow", CapacityScope.SPOT),
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_a_launch_without_capacity_says_how_far_it_reaches(code: str, scope: CapacityScope, status: int) -> None:
    error = translate_launch(answered(code, status=status))
    assert isinstance(error, NoCapacity)
    assert (error.code, error.scope) == (code, scope)
    assert str(error) == f"{code}: so it is"


def test_unsupported_is_a_lack_of_capacity_only_where_a_zone_is_named() -> None:
    zone = "Your requested instance type (m7i.large) is not supported in your requested Availability Zone (us-east-1e)."
    assert isinstance(translate_launch(answered("Unsupported", zone)), NoCapacity)
    other = translate_launch(answered("Unsupported", "The requested configuration is currently not supported."))
    assert isinstance(other, LaunchRejected)


@pytest.mark.parametrize("code", sorted(errors.OUTDATED))
def test_what_is_gone_is_prepared_anew(code: str) -> None:
    assert isinstance(translate_launch(answered(code)), LaunchOutdated)


@pytest.mark.parametrize("code", ["InvalidParameterValue", "UnauthorizedOperation", "IdempotentParameterMismatch"])
def test_other_refusals_of_a_launch_are_for_good(code: str) -> None:
    error = translate_launch(answered(code))
    assert isinstance(error, LaunchRejected)
    assert error.code == code


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError", "AuthFailure"])
def test_errors_of_the_api_stay_retryable_for_a_launch(code: str) -> None:
    assert isinstance(translate_launch(answered(code)), Retryable)


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (exceptions.EndpointConnectionError(endpoint_url="http://x"), CloudUnavailable),
        (exceptions.ReadTimeoutError(endpoint_url="http://x"), CloudUnavailable),
        (exceptions.ConnectionClosedError(endpoint_url="http://x"), CloudUnavailable),
        (ResponseParserError("invalid XML received"), CloudUnavailable),
        (exceptions.NoCredentialsError(), CloudNotReady),
        (exceptions.ProfileNotFound(profile="p"), CloudNotReady),
        (exceptions.ParamValidationError(report="bad"), CloudRefused),
    ],
)
def test_what_the_sdk_raises_without_an_answer(raised: Exception, kind: type[MilpaError]) -> None:
    translated = translate("ec2", "DescribeVpcs", raised)
    assert isinstance(translated, kind)


def test_what_only_a_machine_can_read_is_left_out() -> None:
    told = "You are not authorized to perform this operation. Encoded authorization failure message: " + "x" * 3000
    error = str(answered("UnauthorizedOperation", told))
    assert "You are not authorized to perform this operation." in error
    assert "docs/aws.md" in error
    assert "xxx" not in error


PAGE = "<!DOCTYPE HTML>\n<html lang='en'>\n  <body><h1>Bad Gateway</h1></body>\n</html>\n"


@pytest.mark.parametrize(
    "raised",
    [
        ResponseParserError(
            f"Unable to parse response (syntax error), invalid XML received. Further:\n{PAGE.encode()!r}"
        ),
        exceptions.ClientError(
            {"Error": {"Code": "502", "Message": PAGE}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "DescribeVpcs"
        ),
        exceptions.ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 501}}, "DescribeVpcs"),
        exceptions.HTTPClientError(error="line one\n  line two " + "x" * 3000),
    ],
)
def test_a_page_instead_of_an_answer_is_told_of_in_one_short_line(raised: Exception) -> None:
    told = str(translate("ec2", "DescribeVpcs", raised))
    assert "\n" not in told
    assert "<" not in told
    assert len(told) < 400
    assert ": :" not in told


def test_what_is_no_error_of_the_sdk_is_left_alone() -> None:
    assert translate("ec2", "DescribeVpcs", KeyError("a bug of ours")) is None


def test_a_capacity_code_is_in_no_other_table() -> None:
    tables = [
        errors.THROTTLED,
        errors.UNAVAILABLE,
        errors.CREDENTIALS,
        errors.FORBIDDEN,
        errors.ACCOUNT,
        errors.OUTDATED,
    ]
    codes = [code for table in (*tables, errors.CAPACITY) for code in table]
    assert len(codes) == len(set(codes))
