"""``create``, ``update`` and ``apply`` against a real server."""

from pathlib import Path

from tests.cli.cluster import Cluster

POD = "kind: Pod\nmetadata: {{name: {}, labels: {{app: {}}}}}\nspec: {{units: [{{name: u, image: img}}]}}\n"


def _manifest(*names: str, label: str = "web") -> str:
    return "---\n".join(POD.format(name, label) for name in names)


def test_create_reports_what_exists_and_creates_the_rest(cluster: Cluster) -> None:
    ran = cluster.milpactl("create", "-f", "-", stdin=_manifest("a", "b"))
    assert (ran.code, ran.out, ran.err) == (0, "pod/a created\npod/b created\n", "")
    ran = cluster.milpactl("create", "-f", "-", stdin=_manifest("b", "c"))
    assert (ran.code, ran.out) == (1, "pod/c created\n")
    assert ran.err.startswith('Error: pod/b exists already (change it with "milpactl apply"')
    assert cluster.names("Pod") == ["a", "b", "c"]


def test_nothing_is_sent_when_one_of_the_files_is_bad(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "1.yml").write_text(_manifest("a"))
    (tmp_path / "2.yml").write_text("kind: Pod\nmetadata: {name: bad}\nspec: {unitz: [], restartPolicy: maybe}\n")
    ran = cluster.milpactl("create", "-f", str(tmp_path))
    assert (ran.code, ran.out) == (1, "")
    assert "unitz" in ran.err
    assert "restartPolicy" in ran.err
    assert cluster.names("Pod") == []


def test_update_and_apply(cluster: Cluster) -> None:
    ran = cluster.milpactl("update", "-f", "-", stdin=_manifest("a"))
    assert (ran.code, ran.out) == (1, "")
    assert "Error: pod/a not found (create it" in ran.err
    assert cluster.milpactl("apply", "-f", "-", stdin=_manifest("a")).out == "pod/a created\n"
    assert cluster.milpactl("apply", "-f", "-", stdin=_manifest("a")).out == "pod/a unchanged\n"
    assert cluster.milpactl("apply", "-f", "-", stdin=_manifest("a", "b", label="x")).out == (
        "pod/a updated\npod/b created\n"
    )
    assert cluster.milpactl("update", "-f", "-", stdin=_manifest("a", label="y")).out == "pod/a updated\n"


def test_a_pod_that_is_being_deleted_can_be_neither_created_nor_changed(cluster: Cluster) -> None:
    cluster.milpactl("create", "-f", "-", stdin=_manifest("a"))
    cluster.milpactl("delete", "pod", "a", "--no-wait")
    ran = cluster.milpactl("create", "-f", "-", stdin=_manifest("a"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: pod/a: pod 'a' exists and is being deleted; its name is free once its end is proved\n"
    ran = cluster.milpactl("apply", "-f", "-", stdin=_manifest("a", label="x"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: pod/a: pod 'a' is being deleted; create it anew once it is gone\n"


def test_a_pod_that_has_ended_is_not_said_to_be_updated(cluster: Cluster) -> None:
    cluster.milpactl("create", "-f", "-", stdin=_manifest("a"))
    cluster.put({**cluster.stored("Pod", "a"), "status": {"phase": "Succeeded"}})
    changed = _manifest("a").replace("image: img", "image: other")
    for verb in ("apply", "update"):
        ran = cluster.milpactl(verb, "-f", "-", stdin=changed)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == (
            "Error: pod/a: pod 'a' has ended (it is Succeeded) and is not started again; delete it and create it anew\n"
        )
    assert cluster.milpactl("apply", "-f", "-", stdin=_manifest("a")).out == "pod/a unchanged\n"
    assert cluster.milpactl("apply", "-f", "-", stdin=_manifest("a", label="x")).out == "pod/a updated\n"


def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    ran = cluster.milpactl("create", "--dry-run", "-f", "-", stdin=_manifest("a"))
    assert (ran.code, ran.out) == (0, "pod/a created (dry run)\n")
    assert cluster.names("Pod") == []


def test_what_get_prints_can_be_applied(cluster: Cluster) -> None:
    cluster.milpactl("create", "-f", "-", stdin=_manifest("a", "b"))
    for form in ("yaml", "json"):
        shown = cluster.milpactl("get", "pods", "-o", form).out
        assert cluster.milpactl("apply", "-f", "-", stdin=shown).out == "pod/a unchanged\npod/b unchanged\n"


def test_a_secret_as_shown_is_not_taken_for_the_secret(cluster: Cluster) -> None:
    secret = "kind: Secret\nmetadata: {name: s}\ndata: {password: c3VwZXI=}\n"
    assert cluster.milpactl("create", "-f", "-", stdin=secret).code == 0
    shown = cluster.milpactl("get", "secret", "s", "-o", "yaml").out
    ran = cluster.milpactl("apply", "-f", "-", stdin=shown)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: secret/s holds the length of a value")
    assert cluster.stored("Secret", "s")["data"] == {"password": "c3VwZXI="}
