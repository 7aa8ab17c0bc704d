"""What ``-f`` reads, and that all of its errors come at once."""

from pathlib import Path

import pytest

from cli.manifests import load_objects, load_references
from cli.reporting import CommandFailed
from tests.cli.running import milpactl

POD = "kind: Pod\napiVersion: v1\nmetadata: {{name: {}}}\nspec: {{units: [{{name: u, image: img}}]}}\n"
BAD = "kind: Pod\nmetadata: {name: bad}\nspec:\n  unitz: []\n  restartPolicy: sometimes\n"


def test_folders_files_and_several_documents(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(POD.format("b") + "---\n" + POD.format("c"))
    (tmp_path / "a.yaml").write_text(POD.format("a"))
    (tmp_path / "notes.txt").write_text("no manifest")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.json").write_text('{"kind": "Secret", "metadata": {"name": "d"}}')
    assert [obj.name for obj in load_objects([str(tmp_path)])] == ["a", "b", "c"]
    assert [obj.name for obj in load_objects([str(tmp_path)], recursive=True)] == ["a", "b", "c", "d"]
    assert [obj.name for obj in load_objects([str(tmp_path / "b.yml"), str(tmp_path / "a.yaml")])] == ["b", "c", "a"]
    assert [(ref.kind, ref.name) for ref in load_references([str(tmp_path / "a.yaml")])] == [("Pod", "a")]


def test_all_errors_of_all_files_at_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text(POD.format("good") + "---\n" + BAD)
    two.write_text(BAD)
    (tmp_path / "latin.yml").write_bytes(b"kind: \xe9")
    with pytest.raises(CommandFailed) as caught:
        load_objects([str(one), str(two), str(tmp_path / "latin.yml"), str(tmp_path / "missing.yml")])
    reasons = caught.value.reasons
    for file in (one, two):
        assert any(str(file) in reason and "unitz" in reason for reason in reasons)
        assert any(str(file) in reason and "restartPolicy" in reason for reason in reasons)
    assert any("latin.yml: not UTF-8" in reason for reason in reasons)
    assert any("missing.yml: No such file" in reason for reason in reasons)


def test_a_folder_without_manifests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="the folder has no"):
        load_objects([str(tmp_path)])


def test_each_error_is_a_line_and_no_server_is_needed_to_tell() -> None:
    ran = milpactl("create", "-f", "-", "--disable-tls", "--endpoints", "127.0.0.1:1", stdin=BAD)
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("Error: <stdin>:") for line in lines)
