"""Where an installation keeps its files."""

from pathlib import Path

import pytest

from milpa_ray.paths import Home


def test_default_root() -> None:
    home = Home.from_env({})
    assert home.root == Path("/opt/milpa")
    assert home.server_yml == Path("/opt/milpa/etc/server.yml")
    assert home.data == Path("/opt/milpa/data")
    assert home.certs == Path("/opt/milpa/certs")


def test_all_lie_below_the_root(tmp_path: Path) -> None:
    home = Home.from_env({"MILPA_HOME": str(tmp_path)})
    for path in (home.etc, home.server_yml, home.data, home.certs, home.run, home.log, home.local):
        assert path.is_relative_to(tmp_path)


def test_relative_roots_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home.from_env({"MILPA_HOME": "here"}).root == tmp_path / "here"
