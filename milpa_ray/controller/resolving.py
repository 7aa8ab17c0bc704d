"""Makes a pod ready to be dispatched: looks up its secrets and the image registries' logins.

Secret values go from the store to the agent only; they are never kept here or logged.
"""

import base64
import binascii

from milpa_ray.api.pod import EnvVar, Pod, Unit
from milpa_ray.api.records import Secret
from milpa_ray.controller.deps import PodEnvironment
from milpa_ray.errors import Terminal
from milpa_ray.keys import Keys
from milpa_ray.ports import DesiredPod, RegistryLogin
from milpa_ray.store.port import Store


class UnresolvedError(Terminal):
    """A secret that the pod needs is missing or unfit; the message names it and the remedy."""


class Resolver:
    """Resolves pods against the store. ``environment`` goes to every pod."""

    def __init__(self, store: Store, keys: Keys, environment: PodEnvironment) -> None:
        self._store = store
        self._keys = keys
        self._environment = environment

    async def resolve(self, pod: Pod) -> DesiredPod:
        """The pod with the values of its secrets.

        Raises:
            UnresolvedError: a secret or a key of it is missing.
            StoreUnavailable
        """
        secrets: dict[str, Secret] = {}
        units = tuple([await self._unit(unit, secrets) for unit in pod.spec.units])
        inits = tuple([await self._unit(unit, secrets) for unit in pod.spec.init_units])
        logins = tuple([await self._login(name, secrets) for name in pod.spec.image_pull_secrets])
        if units != pod.spec.units or inits != pod.spec.init_units:
            spec = pod.spec.model_copy(update={"units": units, "init_units": inits})
            pod = pod.model_copy(update={"spec": spec})
        told = self._environment
        return DesiredPod(pod, logins, told.dns_servers, told.dns_search, told.insecure_registries)

    async def _unit(self, unit: Unit, secrets: dict[str, Secret]) -> Unit:
        if not any(var.value_from for var in unit.env):
            return unit
        env = []
        for var in unit.env:
            ref = var.value_from.secret_key_ref if var.value_from else None
            if ref is None:
                env.append(var)
            else:
                value = await self._value(ref.name, ref.key, secrets)
                env.append(EnvVar(name=var.name, value=value))
        return unit.model_copy(update={"env": tuple(env)})

    async def _login(self, name: str, secrets: dict[str, Secret]) -> RegistryLogin:
        return RegistryLogin(
            server=await self._value(name, "server", secrets),
            username=await self._value(name, "username", secrets),
            password=await self._value(name, "password", secrets),
        )

    async def _value(self, name: str, key: str, secrets: dict[str, Secret]) -> str:
        if name not in secrets:
            entry = await self._store.get(self._keys.other("secret", name))
            if entry is None:
                raise UnresolvedError(f"secret {name!r} does not exist: create it before the pods that use it")
            secrets[name] = Secret.from_json(entry.value)
        encoded = secrets[name].data.get(key)
        if encoded is None:
            raise UnresolvedError(f"secret {name!r} has no key {key!r}")
        try:
            return base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise UnresolvedError(f"key {key!r} of secret {name!r} is not base64 of text") from error
