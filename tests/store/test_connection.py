import pytest

from milpa_ray.errors import Invalid
from milpa_ray.store.connection import EtcdConfig, Picker, Target


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("127.0.0.1:2379", Target("127.0.0.1:2379", False)),
        ("http://127.0.0.1:2379", Target("127.0.0.1:2379", False)),
        ("https://localhost:2380", Target("localhost:2380", True)),
        ("https://etcd.example.com/", Target("etcd.example.com:2379", True)),
        ("[::1]:2379", Target("[::1]:2379", False)),
    ],
)
def test_forms_of_endpoints(endpoint: str, target: Target) -> None:
    assert EtcdConfig((endpoint,)).targets() == [target]


def test_tls_files_decide_for_an_endpoint_without_scheme() -> None:
    config = EtcdConfig(("a:1", "http://b:2"), ca_file="/ca.pem")
    assert [target.tls for target in config.targets()] == [True, False]


@pytest.mark.parametrize(
    "endpoint", ["", "http://", "ftp://a:1", "a:port", "a:99999", "http://a:1/path", "http://user@a:1", "a:1?x"]
)
def test_malformed_endpoints_are_named(endpoint: str) -> None:
    with pytest.raises(Invalid, match=r"etcd\.client\.endpoints"):
        EtcdConfig((endpoint,)).targets()


def test_no_endpoint() -> None:
    with pytest.raises(Invalid, match="no endpoint"):
        EtcdConfig(()).targets()


def test_unreadable_and_incomplete_tls_files() -> None:
    with pytest.raises(Invalid, match=r"caFile: cannot read /nowhere/ca\.pem"):
        EtcdConfig(("a:1",), ca_file="/nowhere/ca.pem").credentials()
    with pytest.raises(Invalid, match="go together"):
        EtcdConfig(("a:1",), cert_file="/nowhere/cert.pem").credentials()


def test_the_picker_leaves_a_member_once_however_many_calls_fail_on_it() -> None:
    a, b, c = object(), object(), object()
    picker = Picker([a, b, c])
    picker.failed(a)
    picker.failed(a)
    assert picker.current is b
    picker.failed(b)
    picker.failed(c)
    assert picker.current is a
