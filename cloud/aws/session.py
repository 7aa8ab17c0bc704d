"""How AWS is called: credentials, region, endpoint, threads, pace and errors. One ``AwsSession`` per process.

boto3 blocks, so calls run in a small pool of threads; its own retries are off, since our callers check before each try
that they still may. The order of credentials is the manual's: environment, ``server.yml``, ``~/.aws``, the instance's
role. The endpoint is the SDK's business (``AWS_ENDPOINT_URL``, ``AWS_ENDPOINT_URL_EC2``).
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cloud.aws.errors import SdkMisconfigured, senseless, translate
from cloud.aws.throttle import Pace
from milpa_ray.errors import CloudThrottled, CloudUnavailable, MilpaError

T = TypeVar("T")
THREADS = 12
"""More than the calls that the coordinator has under way at a time."""
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
"""A launch of many instances may take half a minute to be answered."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of ``server.yml``, which the environment's win over. Empty: the SDK finds some itself."""

    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)

    def arguments(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a boto3 session is told; nothing lets it look into environment, ``~/.aws`` and role by itself."""
        env = os.environ if env is None else env
        key = env.get("AWS_ACCESS_KEY_ID") or self.access_key_id
        secret = env.get("AWS_SECRET_ACCESS_KEY") or self.secret_access_key
        if not key or not secret:
            return {}
        told = {"aws_access_key_id": key, "aws_secret_access_key": secret}
        # A session token belongs to the environment's key, never to that of server.yml.
        if key == env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SESSION_TOKEN"):
            told["aws_session_token"] = env["AWS_SESSION_TOKEN"]
        return told


class AwsSession:
    """Calls AWS' APIs. Cheap to build: boto3 is imported by the first call."""

    def __init__(
        self,
        region: str,
        credentials: Credentials = Credentials(),
        pace: Pace | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.region = region
        self._read_timeout_s = read_timeout_s
        self._credentials = credentials
        self._pace = pace if pace is not None else Pace()
        self._pool = ThreadPoolExecutor(THREADS, "aws")
        self._making = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._closed = False

    async def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer of one API call, such as ``call("ec2", "DescribeVpcs", VpcIds=[...])``. Waits for the pace first.

        Raises:
            CloudThrottled, CloudUnavailable, CloudNotReady: see there. CloudRefused: any other error, with its code.
        """
        launched = int(parameters.get("MaxCount", 0)) if operation == "RunInstances" else 0
        await self._pace.wait(service, operation, launched)
        self._check_open()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._send, service, operation, parameters)
        except CloudThrottled:
            self._pace.throttled(service, operation)
            raise

    async def pages(self, service: str, operation: str, **parameters: Any) -> AsyncIterator[dict[str, Any]]:
        """The answers of a call that pages by ``NextToken``. Raises as ``call``."""
        while True:
            page = await self.call(service, operation, **parameters)
            yield page
            token = page.get("NextToken")
            if not token:
                return
            parameters["NextToken"] = token

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of other blocking work."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Ends the threads as they get idle; waits for none. Nothing is sent any more, even by a call under way that
        has not come that far."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check_open(self) -> None:
        if self._closed:
            raise CloudUnavailable("not sent: the session is closed")

    # ------------------------------------------------------------ in the threads

    def _send(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        try:
            client = self._client(service)
            self._check_open()
            method = getattr(client, _method_name(operation))
            answer: dict[str, Any] = _answer(method, service, operation, parameters)
        except MilpaError:
            raise
        except Exception as error:
            translated = translate(service, operation, error)
            if translated is None:
                raise
            raise translated from error
        return answer

    def _client(self, service: str) -> Any:
        """Clients may be shared by threads, but not made by several at a time."""
        client = self._clients.get(service)
        if client is not None:
            return client
        import boto3
        from botocore.config import Config

        with self._making:
            if self._session is None:
                self._session = boto3.session.Session(region_name=self.region, **self._credentials.arguments())
            if service not in self._clients:
                config = Config(
                    retries={"total_max_attempts": 1},
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=self._read_timeout_s,
                    max_pool_connections=THREADS,
                    tcp_keepalive=True,
                    user_agent_extra="milpa",
                )
                self._clients[service] = self._make(service, config)
            return self._clients[service]

    def _make(self, service: str, config: Any) -> Any:
        try:
            return self._session.client(service, config=config)
        except (ValueError, OSError) as error:
            raise _misconfigured(str(error)) from error


def _answer(method: Callable[..., Any], service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(method(**parameters))
    except KeyError as error:  # the SDK's parser found well-formed XML of something else
        raise senseless(service, operation) from error


def _misconfigured(told: str) -> SdkMisconfigured:
    """For what the SDK says of an endpoint or a file that it was told to use."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("AWS_ENDPOINT_URL") and value and told.endswith(value):
            example = "http://127.0.0.1:5000"
            return SdkMisconfigured(f"{name}: {value!r} is no URL such as {example}; correct the variable or unset it")
    return SdkMisconfigured(f"{told}; correct it in ~/.aws/config, or in the AWS_* variables of the environment")


def _method_name(operation: str) -> str:
    from botocore import xform_name

    return str(xform_name(operation))
