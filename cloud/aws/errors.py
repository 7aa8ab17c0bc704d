"""AWS' errors as the domain's: tables of error codes, and what the SDK raises without an answer.

What a code means for a launch is more than what it means for other calls (capacity, things that are gone), so there
are two translations: ``translate`` for all calls, ``translate_launch`` on top of it for ``RunInstances``.
"""

import re
from typing import Any

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
)

THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "EC2ThrottledException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "SlowDown",
        "TooManyRequestsException",
    }
)
"""Besides whatever begins with ``Throttl``."""

UNAVAILABLE = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServerInternal",
        "ServiceUnavailable",
        "Unavailable",
    }
)
"""Besides whatever comes with an HTTP status of 500 and above and is in no other table."""

CREDENTIALS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
FORBIDDEN = frozenset({"403", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
"""``403`` is what the SDK says of an answer with that status and no code that it can read."""
ACCOUNT = frozenset({"Blocked", "OptInRequired", "PendingAccountVerification", "PendingVerification"})

CAPACITY = {
    "InsufficientCapacity": CapacityScope.TYPE,
    "InsufficientHostCapacity": CapacityScope.TYPE,
    "InsufficientInstanceCapacity": CapacityScope.TYPE,
    "InsufficientReservedInstanceCapacity": CapacityScope.TYPE,
    "UnfulfillableCapacity": CapacityScope.TYPE,
    "InsufficientAddressCapacity": CapacityScope.SUBNET,
    "InsufficientFreeAddressesInSubnet": CapacityScope.SUBNET,
    "InstanceLimitExceeded": CapacityScope.FAMILY,
    "VcpuLimitExceeded": CapacityScope.FAMILY,
    "MaxSpotInstanceCountExceeded": CapacityScope.SPOT,
    "SpotMaxPriceTooLow": CapacityScope.SPOT,
}
"""How far a refused launch is remembered. ``Unsupported`` is here too when it names a zone: the type is not there."""

OUTDATED = frozenset(
    {
        "IdempotentInstanceTerminated",
        "InvalidAMIID.NotFound",
        "InvalidAMIID.Unavailable",
        "InvalidGroup.NotFound",
        "InvalidSecurityGroupID.NotFound",
        "InvalidSnapshot.NotFound",
        "InvalidSubnet",
        "InvalidSubnetID.NotFound",
    }
)
"""What a recorded launch names is gone: it is prepared anew."""

_ENCODED = "Encoded authorization failure message"
"""What follows is kilobytes for a machine."""
MAX_WORDS = 240
"""Characters that are kept of what AWS, or who answered in its place, says."""
_SOURCE = re.compile(r"(b['\"])?<[!?/a-zA-Z].*", re.DOTALL)
"""Where HTML or XML begins, and all after it."""
PERMISSION_REMEDY = "give Milpa's user or role the permissions listed in docs/aws.md"
NOT_AWS_REMEDY = "perhaps none of AWS' but of a proxy, or of what AWS_ENDPOINT_URL names"
CREDENTIAL_REMEDY = (
    "check cloud.aws.accessKeyID and secretAccessKey, the environment's AWS_ACCESS_KEY_ID, ~/.aws, or the instance's "
    "role, and this machine's clock"
)


def translate(service: str, operation: str, error: Exception) -> MilpaError | None:
    """The domain's error for what boto3 raised in a call; None when it is none of boto3's."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    where = f"{service} {operation}"
    if isinstance(error, exceptions.ClientError):
        return _translate_answer(where, error.response)
    if isinstance(
        error,
        (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.NoAuthTokenError,
            exceptions.TokenRetrievalError,
            exceptions.ProfileNotFound,
            exceptions.NoRegionError,
        ),
    ):
        return CloudNotReady(f"{where}: {error}: {CREDENTIAL_REMEDY}")
    if isinstance(error, exceptions.ParamValidationError):
        return CloudRefused("ParamValidation", f"{where}: {error}")
    # The parser's error is of no family: something on the way answered, such as a proxy with a page of its own.
    if isinstance(error, ResponseParserError):
        return CloudUnavailable(f"{where}: {_short(str(error))} ({NOT_AWS_REMEDY})")
    if isinstance(error, (exceptions.HTTPClientError, exceptions.BotoCoreError)):
        return CloudUnavailable(f"{where}: {_short(str(error))}")
    return None


def senseless(service: str, operation: str) -> CloudUnavailable:
    """The error for an answer that lacks what every answer to that call has."""
    return CloudUnavailable(f"{service} {operation}: the answer makes no sense ({NOT_AWS_REMEDY})")


def _short(text: str) -> str:
    """One line for people: without a page's or a document's source, and of bounded length."""
    words = " ".join(_SOURCE.sub("", text).split())
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}..."


def _translate_answer(where: str, response: Any) -> MilpaError:
    code = str(response.get("Error", {}).get("Code", ""))
    message = _short(str(response.get("Error", {}).get("Message", "")).partition(_ENCODED)[0])
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    message = message or f"no message ({NOT_AWS_REMEDY})"
    code = code or f"HTTP status {status}"
    told = f"{where}: {code}: {message}"
    if code in THROTTLED or code.startswith("Throttl"):
        return CloudThrottled(told)
    if code in CREDENTIALS:
        return CloudNotReady(f"{told} ({CREDENTIAL_REMEDY})")
    if code in FORBIDDEN:
        return CloudForbidden(code, f"{told} ({PERMISSION_REMEDY})")
    if code in ACCOUNT:
        return CloudNotReady(f"{told} (the AWS account cannot be used for this yet; see its console)")
    if code in UNAVAILABLE or (status >= 500 and code not in CAPACITY):
        return CloudUnavailable(told)
    return CloudRefused(code, message)


class CloudForbidden(CloudNotReady):
    """A permission is missing. For a launch this may be meant (a policy that allows some types only)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SdkMisconfigured(CloudNotReady):
    """What the environment or ~/.aws tells the SDK cannot be: nothing can be sent."""


def translate_launch(error: MilpaError) -> MilpaError:
    """What ``translate`` made of an error of ``RunInstances``, as a launch's error."""
    if isinstance(error, CloudForbidden):
        return LaunchRejected(error.code, str(error))
    if not isinstance(error, CloudRefused):
        return error
    code, message = error.code, str(error).removeprefix(f"{error.code}: ")
    if code in CAPACITY:
        return NoCapacity(code, message, CAPACITY[code])
    if code == "Unsupported" and "availability zone" in message.lower():
        return NoCapacity(code, message, CapacityScope.TYPE)
    if code in OUTDATED:
        return LaunchOutdated(code, message)
    return LaunchRejected(code, message)
