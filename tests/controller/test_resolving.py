"""Secrets and registry logins are put into a pod just before it is dispatched."""

import base64

import pytest

from milpa_ray.api.meta import ObjectMeta
from milpa_ray.api.pod import EnvVar, EnvVarSource, Pod, PodSpec, SecretKeySelector, Unit
from milpa_ray.api.records import Secret
from milpa_ray.controller.deps import PodEnvironment
from milpa_ray.controller.resolving import Resolver, UnresolvedError
from milpa_ray.keys import Keys
from milpa_ray.ports import RegistryLogin
from milpa_ray.store.memory import MemoryStore
from milpa_ray.store.port import Put, Txn

KEYS = Keys("c")
ENVIRONMENT = PodEnvironment(("10.0.0.2",), ("default.c.local",), ("registry.example:5000",))


def encoded(**values: str) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}


async def resolver(**secrets: dict[str, str]) -> Resolver:
    store = MemoryStore()
    for name, data in secrets.items():
        secret = Secret(metadata=ObjectMeta(name=name), data=data)
        await store.commit(Txn(ops=(Put(KEYS.other("Secret", name), secret.to_json()),)))
    return Resolver(store, KEYS, ENVIRONMENT)


def pod(*env: EnvVar, pull: tuple[str, ...] = ()) -> Pod:
    units = (Unit(name="main", image="i", env=env),)
    return Pod(metadata=ObjectMeta(name="web"), spec=PodSpec(units=units, init_units=units, image_pull_secrets=pull))


def secret_env(name: str, key: str) -> EnvVar:
    return EnvVar(name="PASS", value_from=EnvVarSource(secret_key_ref=SecretKeySelector(name=name, key=key)))


async def test_values_take_the_place_of_references_in_all_units() -> None:
    desired = await (await resolver(s=encoded(word="p w"))).resolve(
        pod(EnvVar(name="A", value="1"), secret_env("s", "word"))
    )
    for unit in (*desired.pod.spec.units, *desired.pod.spec.init_units):
        assert [(v.name, v.value, v.value_from) for v in unit.env] == [("A", "1", None), ("PASS", "p w", None)]


async def test_a_pod_without_secrets_is_passed_on_as_it_is_with_the_clusters_environment() -> None:
    wanted = pod(EnvVar(name="A", value="1"))
    desired = await (await resolver()).resolve(wanted)
    assert desired.pod is wanted
    told = PodEnvironment(desired.dns_servers, desired.dns_search, desired.insecure_registries)
    assert told == ENVIRONMENT


async def test_pull_secrets_become_logins() -> None:
    found = await resolver(r=encoded(server="reg.example.com", username="u", password="p"))
    desired = await found.resolve(pod(pull=("r",)))
    assert desired.logins == (RegistryLogin("reg.example.com", "u", "p"),)
    assert "'p'" not in repr(desired.logins)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "secret 's' does not exist"),
        ({}, "secret 's' has no key 'word'"),
        ({"word": "***"}, "not base64"),
        ({"word": base64.b64encode(b"\xff").decode()}, "not base64 of text"),
    ],
)
async def test_what_is_missing_is_named(data: dict[str, str] | None, reason: str) -> None:
    found = await (resolver() if data is None else resolver(s=data))
    with pytest.raises(UnresolvedError, match=reason):
        await found.resolve(pod(secret_env("s", "word")))
