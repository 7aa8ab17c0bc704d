"""One way to AWS' APIs: boto3 clients in a small pool of threads, each call one request.

The SDK's own retries are off: who calls decides whether it may still ask. Credentials and region are the settings' or
the SDK's own chain; the endpoint is the SDK's, too (``AWS_ENDPOINT_URL``).
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from cloud.aws.errors import translate

THREADS = 8
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0


class Calls(Protocol):
    """What the adapters need of AWS."""

    async def call(self, service: str, operation: str, /, **params: Any) -> dict[str, Any]:
        """One API call, by boto3's names, such as ``("ec2", "describe_vpcs")``; the answer as boto3 gives it.

        Raises:
            CloudThrottled, CloudUnavailable, CloudNotReady, CloudRefused
        """


class AwsSession:
    """Implements ``Calls``. Cheap to build: boto3 is imported with the first call."""

    def __init__(self, region: str, access_key_id: str = "", secret_access_key: str = "") -> None:
        self.region = region
        self._keys = (access_key_id or None, secret_access_key or None)
        self._pool = ThreadPoolExecutor(THREADS, "aws")
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    async def call(self, service: str, operation: str, /, **params: Any) -> dict[str, Any]:
        """As ``Calls.call``."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, service, operation, params)

    def _call(self, service: str, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client(service), operation)(**params)
        except Exception as error:
            raise translate(f"{service} {operation}", error) from error
        return answer

    def _client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        with self._lock:  # making a client is not thread-safe, using one is
            if self._session is None:
                key, secret = self._keys
                self._session = boto3.Session(
                    region_name=self.region, aws_access_key_id=key, aws_secret_access_key=secret
                )
            if service not in self._clients:
                config = Config(
                    retries={"total_max_attempts": 1},
                    max_pool_connections=THREADS,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    read_timeout=READ_TIMEOUT_S,
                )
                self._clients[service] = self._session.client(service, config=config)
            return self._clients[service]

    async def close(self) -> None:
        """Ends the threads once their calls have been answered."""
        await asyncio.to_thread(self._pool.shutdown)


async def pages(
    aws: Calls, service: str, operation: str, /, token: tuple[str, str] = ("NextToken", "NextToken"), **params: Any
) -> AsyncIterator[dict[str, Any]]:
    """All pages of a listing, one call each. ``token``: the parameter that asks for the next page, and the field of an
    answer that says what to ask."""
    ask, told = token
    while True:
        page = await aws.call(service, operation, **params)
        yield page
        if not page.get(told):
            return
        params[ask] = page[told]
