"""AWS' errors as Milpa's. Knows codes only, not what was asked for: a caller that expects a refusal reads its code."""

from milpa_ray.errors import CloudNotReady, CloudRefused, CloudThrottled, CloudUnavailable, MilpaError

THROTTLED = frozenset(
    {
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "TooManyRequestsException",
    }
)
UNAVAILABLE = frozenset(
    {"InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable", "RequestTimeout"}
)
NOT_READY = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "OptInRequired",
        "PendingVerification",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
"""Somebody has to give a permission or mend the credentials; then the same call works."""


def translate(operation: str, error: Exception) -> MilpaError:
    """The error of a boto3 call as one of ours. ``operation`` is named in the message, as ``ec2 run_instances``."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return _without_answer(operation, error)
    told = error.response.get("Error", {})
    code, message = str(told.get("Code", "Unknown")), str(told.get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"{operation}: {code}: {message}"
    if code in THROTTLED or code.startswith("Throttling"):
        return CloudThrottled(text)
    if code in NOT_READY:
        return CloudNotReady(f"{text}; check the credentials and the IAM policy (docs/iam-policy.json)")
    if code in UNAVAILABLE or status >= 500:
        return CloudUnavailable(text)
    return CloudRefused(code, f"{operation}: {message}")


def _without_answer(operation: str, error: Exception) -> MilpaError:
    from botocore.exceptions import NoCredentialsError, ParamValidationError, PartialCredentialsError

    if isinstance(error, ParamValidationError):
        return CloudRefused("ParamValidation", f"{operation}: {error}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return CloudNotReady(
            f"{operation}: {error}; set cloud.aws.accessKeyID and secretAccessKey, or give this machine an IAM role"
        )
    return CloudUnavailable(f"{operation}: {error}")
