"""``version``, ``dump`` and the completion of names, against a real server; and the server over TLS."""

import base64
import json
import time
from pathlib import Path

from milpa_ray import __version__
from milpa_ray.pki import CertificateAuthority
from tests.cli.cluster import Cluster
from tests.cli.factories import running_pod, stored
from tests.cli.running import milpactl, milpactl_here


def test_version(cluster: Cluster) -> None:
    ran = milpactl("version", *cluster.flags)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"milpactl version: {__version__}\nMilpa server version: {__version__}\n"


def test_dump(cluster: Cluster) -> None:
    value = base64.b64encode(b"super-secret-password").decode()
    cluster.put(running_pod("web"), stored("Secret", "creds", data={"password": value}))
    ran = cluster.milpactl("dump", "all")
    assert ran.code == 0
    assert value not in ran.out
    found = json.loads(ran.out)
    assert found["Pod"][0]["metadata"]["name"] == "web"
    assert list(json.loads(cluster.milpactl("dump", "po").out)) == ["Pod"]
    ran = cluster.milpactl("dump", "nonsense")
    assert (ran.code, ran.out) == (1, "")
    assert "nonsense" in ran.err


def test_names_are_completed(cluster: Cluster) -> None:
    cluster.put(running_pod("web-1"), running_pod("web-2"), running_pod("db"))

    def completed(*words: str) -> list[str]:
        typed = ["milpactl", *cluster.flags, *words]
        env = {"_MILPACTL_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed)}
        return milpactl_here(env=env | {"COMP_CWORD": str(len(typed) - 1)}).out.split()

    assert completed("get", "pod", "we") == ["web-1", "web-2"]
    assert completed("describe", "pod/d") == ["pod/db"]
    assert completed("delete", "pod", "web-1", "d") == ["db"]
    assert completed("logs", "web-2") == ["web-2"]


def test_over_tls(secure_cluster: Cluster) -> None:
    assert milpactl("version", *secure_cluster.flags).code == 0
    manifest = "kind: Pod\nmetadata: {name: a}\nspec: {units: [{name: u, image: img}]}\n"
    assert secure_cluster.milpactl("apply", "-f", "-", stdin=manifest).out == "pod/a created\n"
    assert secure_cluster.milpactl("get", "pods", "-o", "name").out == "pod/a\n"


def test_who_shows_no_certificate_of_ours_is_told_what_is_wrong(secure_cluster: Cluster, tmp_path: Path) -> None:
    where = secure_cluster.flags[:2]
    ran = milpactl("version", "--disable-tls", *where)
    assert ran.code == 1
    assert "Error: no API server answers" in ran.err
    stranger = CertificateAuthority.create("stranger")
    pair = stranger.issue(["client.milpa"], server=False, client=True)
    for name, content in (("ca.crt", stranger.pair.cert), ("client.crt", pair.cert), ("client.key", pair.key)):
        (tmp_path / name).write_bytes(content)
    ran = milpactl("get", "pods", "--cert-dir", str(tmp_path), *where)
    assert ran.code == 1
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1
    assert "--cert-dir" in ran.err


def test_ten_thousand_pods_are_shown_in_seconds(cluster: Cluster) -> None:
    cluster.put(*(running_pod(f"pod-{number:05}") for number in range(10_000)))
    milpactl("get", "pod", "pod-00000", *cluster.flags)
    began = time.monotonic()
    ran = milpactl("get", "pods", *cluster.flags)
    took_s = time.monotonic() - began
    assert (ran.code, ran.out.count("\n")) == (0, 10_001)
    assert took_s < 5, "a second is the aim; a busy machine gets some more"
