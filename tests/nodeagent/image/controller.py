"""Plays a controller in the machine's network: dials the agent over mutual TLS, enrols it and has a pod run.

``python -m tests.nodeagent.image.controller FOLDER IMAGE``: FOLDER holds ``ca.crt`` and ``ca.key`` of the cluster.
Prints what it saw as one JSON object.
"""

import asyncio
import json
import sys
from pathlib import Path

from milpa_ray.pki import CertificateAuthority, KeyPair
from milpa_ray.ports import AGENT_PORT, CONTROLLER_IDENTITY, AgentAddress, bootstrap_identity, node_identity
from nodeagent.client import GrpcAgent, GrpcDialer
from tests.nodeagent.agents import OWNER, UID, log_of, pod, report_when, states, unit

BATCH = "batch1"
NODE = "node1"
SCRIPT = "echo hello; id -u"


def _dialer(folder: Path) -> GrpcDialer:
    ca = CertificateAuthority(KeyPair((folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes()))
    pair = ca.issue([CONTROLLER_IDENTITY], server=False, client=True)

    def sign(csr: bytes, node: str) -> bytes:
        return ca.sign_csr(csr, [node_identity(node)], server=True, client=False)

    return GrpcDialer(ca.pair.cert, pair.cert, pair.key, sign)


async def _work(folder: Path, image: str) -> dict[str, object]:
    dialer = _dialer(folder)

    def dial(identity: str) -> GrpcAgent:
        return dialer.dial(AgentAddress("127.0.0.1", identity, AGENT_PORT))

    first = dial(bootstrap_identity(BATCH))
    hello = await first.hello(OWNER)
    await first.enroll(OWNER, NODE)
    await first.close()
    agent = dial(node_identity(NODE))
    enrolled = await agent.hello(OWNER)
    await agent.dispatch(OWNER, pod(unit("a", image, SCRIPT), policy="never"))
    report = await report_when(agent, lambda seen: states(seen)["a"].startswith("exit"), 60.0)
    log = await log_of(agent, "a")
    await agent.stop(OWNER, UID, 1.0)
    await agent.close()
    return {
        "enrolled": [hello.enrolled, enrolled.enrolled],
        "node": enrolled.node_name,
        "version": hello.version,
        "unit": states(report)["a"],
        "log": log,
    }


def main() -> None:
    folder, image = sys.argv[1:]
    print(json.dumps(asyncio.run(asyncio.wait_for(_work(Path(folder), image), 120))))


if __name__ == "__main__":
    main()
