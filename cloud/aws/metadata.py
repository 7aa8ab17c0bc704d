"""What the metadata service says of the EC2 instance that Milpa itself runs on, if it runs on one (IMDSv2).

Blocking; called in a thread. Credentials of the instance's role are the SDK's business.
"""

import os
from collections.abc import Mapping

TIMEOUT_S = 2.0
TOKEN_LIFE_S = 60
_ENDPOINT = "http://169.254.169.254"


class NotOnEc2(Exception):
    """No metadata service answers here."""


def own_vpc(env: Mapping[str, str] | None = None) -> str:
    """The id of the VPC that this machine is in. The SDK's own variables say where the service is, or that it is not
    to be asked.

    Raises:
        NotOnEc2
    """
    import urllib.request  # no other part of Milpa needs it

    env = os.environ if env is None else env
    if env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise NotOnEc2("AWS_EC2_METADATA_DISABLED is set")
    endpoint = (env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _ENDPOINT).rstrip("/")
    # The service is a neighbour: no proxy leads there.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(path: str, method: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{endpoint}/latest/{path}", method=method, headers=headers)
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read(4096).decode())

    try:
        token = ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_LIFE_S)})
        headers = {"X-aws-ec2-metadata-token": token}
        mac = ask("meta-data/mac", "GET", headers).strip()
        return ask(f"meta-data/network/interfaces/macs/{mac}/vpc-id", "GET", headers).strip()
    except (OSError, ValueError) as error:
        raise NotOnEc2(f"the metadata service at {endpoint} does not answer: {error}") from error
