"""All that runs for one Milpa home on this machine: brought up, watched, stopped and taken down.

Knows the order and what depends on what; each part starts and ends itself. Everything is found anew from the home's
files, so each function works after a crash of anything, and running it twice does no harm.
"""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from milpa_ray.errors import MilpaError
from milpa_ray.paths import Home
from milpa_ray.settings import Settings
from milpa_ray.store.embedded import EmbeddedEtcd
from shards.actors import ActorConfig, ApiActor, CoordinatorActor, ShardActor
from shards.launch import ActorSpec, hosts, start_actors, statuses, stop_actors
from shards.layout import UpOptions, load_options, locked, make_home, read_settings, save_options
from shards.local_cloud import local_cloud
from shards.ray_cluster import RayCluster

READY_TIMEOUT_S = 60.0
WATCH_INTERVAL_S = 2.0
RETRY_MAX_S = 60.0

Progress = Callable[[str], None]
"""Told what was done, in words for people."""


def _silent(_text: str) -> None:
    return None


@dataclass
class Installation:
    """What belongs to ``home``. ``options`` default to those of the last ``up``."""

    home: Home
    options: UpOptions = field(default_factory=UpOptions)

    @classmethod
    def found(cls, home: Home) -> "Installation":
        """As it was brought up last."""
        return cls(home, load_options(home))

    @property
    def config_file(self) -> Path:
        return Path(self.options.config_file) if self.options.config_file else self.home.server_yml

    @cached_property
    def settings(self) -> Settings:
        """Raises ``Invalid``, with all errors of the file."""
        return read_settings(self.home, self.config_file)

    @property
    def ray(self) -> RayCluster:
        return RayCluster(self.home, self.options.node_ip)

    # ------------------------------------------------------------ up

    def up(self, progress: Progress = _silent, *, take_over_name: bool = False) -> bool:
        """Brings up what does not run, and waits until all is ready. False when all was up already, be it with other
        options than these: those of ``found`` are the ones that count then. ``take_over_name``: on AWS, also if a
        cluster that is dead has the name.

        Raises:
            MilpaError: it failed; what this call has started is ended again.
        """
        if make_home(self.home):
            progress(f"wrote {self.home.server_yml}")
        with locked(self.home):
            settings = self.settings
            if self._runs_otherwise() or self.is_up():
                return False
            save_options(self.home, self.options)
            undo: list[Callable[[], object]] = []
            try:
                self._start_daemons(settings, undo, progress)
                self._claim_name(settings, progress, take_over=take_over_name)
                self._start_controllers(settings, progress)
            except BaseException:
                for step in reversed(undo):
                    step()
                raise
        return True

    def _start_daemons(self, settings: Settings, undo: list[Callable[[], object]], progress: Progress) -> None:
        """etcd, the local cloud and Ray, in parallel: none needs another."""
        steps: list[Callable[[], str]] = [lambda: self._start_ray(undo)]
        if not settings.etcd.client.endpoints:
            steps.append(lambda: self._start_etcd(undo))
        if settings.cloud.local is not None:
            steps.append(lambda: self._start_cloud(settings, undo))

        def timed(step: Callable[[], str]) -> None:
            began = time.monotonic()
            text = step()
            progress(f"{text} ({time.monotonic() - began:.1f} s)")

        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(timed, step) for step in steps]
        for future in futures:
            future.result()

    def _start_etcd(self, undo: list[Callable[[], object]]) -> str:
        etcd = self._etcd()
        if etcd.running() is None:
            undo.append(etcd.stop)
        return f"etcd serves at {etcd.start()}"

    def _start_cloud(self, settings: Settings, undo: list[Callable[[], object]]) -> str:
        cloud = local_cloud(self.home, settings)
        if not cloud.running():
            undo.append(cloud.stop)
        cloud.start()
        return f"local cloud runs on bridge {cloud.options.bridge}, subnet {cloud.options.subnet}"

    def _start_ray(self, undo: list[Callable[[], object]]) -> str:
        if self.ray.is_running():
            return f"Ray runs at {self.ray.address()}"
        undo.append(self.ray.stop)
        address = self.ray.start_head(self.options.ray_port, self.options.autoscaling_config)
        return f"Ray started at {address}"

    def _claim_name(self, settings: Settings, progress: Progress, *, take_over: bool) -> None:
        """So that no two installations manage the same instances. Of a local cloud there is one per machine."""
        if settings.cloud.aws is not None:
            from shards.aws_life import claim_name
            from shards.wiring import etcd_config

            etcd = etcd_config(settings, self._endpoints(settings))
            progress(claim_name(settings, settings.cloud.aws, etcd, self.home, take_over=take_over))

    def _start_controllers(self, settings: Settings, progress: Progress) -> None:
        began = time.monotonic()
        with self.ray.connected():
            specs = self._specs(settings, hosts())
            start_actors(specs, READY_TIMEOUT_S, lambda text: progress(f"{text} ({time.monotonic() - began:.1f} s)"))

    def _specs(self, settings: Settings, host_addresses: list[str]) -> list[ActorSpec]:
        """The actors that are to exist: a coordinator, the shards, and an API server on each host."""
        from shards import wiring

        # The hypervisor's socket is on this host alone.
        here = self.options.node_ip if settings.cloud.local is not None else ""
        shards = [self._actor_config(settings, f"shard-{number}") for number in range(settings.controllers.shards)]
        coordinator = self._actor_config(settings, "coordinator")
        return [
            ActorSpec(CoordinatorActor, wiring.build_coordinator, coordinator, here),
            *(ActorSpec(ShardActor, wiring.build_shard, shard) for shard in shards),
            *(self.api_spec(settings, host) for host in host_addresses),
        ]

    def api_spec(self, settings: Settings, host: str) -> ActorSpec:
        """The API server of the host with that Ray address."""
        from shards import wiring

        return ActorSpec(ApiActor, wiring.build_api, self._actor_config(settings, f"api-{host}", host), host)

    def _actor_config(self, settings: Settings, name: str, host: str = "") -> ActorConfig:
        endpoints = self._endpoints(settings)
        return ActorConfig(name, str(self.home.root), str(self.config_file), endpoints, self.options.tls, host)

    def _endpoints(self, settings: Settings) -> tuple[str, ...]:
        """etcd's."""
        return settings.etcd.client.endpoints or (self._etcd().running() or "",)

    def _etcd(self) -> EmbeddedEtcd:
        try:
            internal = self.settings.etcd.internal
        except MilpaError:  # good enough to find and stop it
            return EmbeddedEtcd("", str(self.home.run), str(self.home.log / "etcd.log"))
        data_dir = "" if _names_data_dir(internal.config_file) else internal.data_dir
        return EmbeddedEtcd(data_dir, str(self.home.run), str(self.home.log / "etcd.log"), internal.config_file)

    # ------------------------------------------------------------ state

    def daemons(self) -> dict[str, str]:
        """State of the daemons by name: ``running``, with where; else ``stopped``."""
        found = {"ray": f"running at {self.ray.address()}" if self.ray.is_running() else "stopped"}
        if not self.settings.etcd.client.endpoints:
            endpoint = self._etcd().running()
            found["etcd"] = f"running at {endpoint}" if endpoint else "stopped"
        if self.settings.cloud.local is not None:
            cloud = local_cloud(self.home, self.settings)
            found["local cloud"] = f"running at {cloud.socket}" if cloud.running() else "stopped"
        return found

    def is_up(self) -> bool:
        """Whether all daemons run and all controllers are ready."""
        if any(state == "stopped" for state in self.daemons().values()):
            return False
        with self.ray.connected():
            wanted = {spec.config.name for spec in self._specs(self.settings, hosts())}
            return wanted <= {status.name for status in statuses() if status.ready}

    def _runs_otherwise(self) -> bool:
        """Whether all is up with other options: bringing it up with these would leave half of each."""
        running = Installation.found(self.home)
        try:
            return running.options != self.options and running.is_up()
        except MilpaError:  # its settings are gone or wrong by now
            return False

    def watch(self, ended: threading.Event, progress: Progress = _silent) -> None:
        """Keeps the daemons running until ``ended`` is set. Controllers are Ray's to restart."""
        pause_s = WATCH_INTERVAL_S
        while not ended.wait(pause_s):
            stopped = [name for name, state in self.daemons().items() if state == "stopped"]
            if not stopped:
                pause_s = WATCH_INTERVAL_S
                continue
            progress(f"{', '.join(stopped)} stopped; starting again")
            try:
                self.up(progress)
            except MilpaError as error:
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                progress(f"failed, next try in {pause_s:.0f} s: {error}")

    # ------------------------------------------------------------ stop and down

    def stop(self, progress: Progress = _silent) -> None:
        """Ends controllers, Ray and the embedded etcd. Instances and their pods go on.

        Raises:
            MilpaError: something did not end.
        """
        with locked(self.home):
            self._stop(progress)

    def _stop(self, progress: Progress) -> None:
        if self.ray.is_running():
            try:
                with self.ray.connected():
                    stop_actors()
                progress("controllers stopped")
            except MilpaError as error:
                progress(f"controllers could not be asked to stop, they are ended: {error}")
        if ended := self.ray.stop():
            progress(f"Ray stopped ({len(ended)} processes)")
        etcd = self._etcd()
        if etcd.running():
            progress("etcd stopped")
        etcd.stop()

    def down(self, progress: Progress = _silent, *, delete_data: bool = False, keep_cloud: bool = False) -> None:
        """Ends and removes everything of this home from the machine; with ``delete_data`` its state, too, and on AWS
        all that the account has of the cluster, unless ``keep_cloud``, or others may manage it from the same etcd.
        Settings and certificates stay.

        Raises:
            MilpaError: something is left; says what.
        """
        with locked(self.home):
            self._stop(progress)
            cloud = local_cloud(self.home)
            had = cloud.running() or bool(cloud.directory.exists() and cloud.leftovers())
            cloud.down(remove_data=delete_data)
            if had:
                progress("local cloud taken down: hypervisor, instances, bridge")
            left = self.leftovers()
            if left:
                raise MilpaError(f"still there: {', '.join(left)}. Run 'milpa down' again")
            if delete_data:
                self._clean_account(progress, keep=keep_cloud)
                self._delete_data(progress)

    def _clean_account(self, progress: Progress, *, keep: bool) -> None:
        try:
            settings = self.settings
        except MilpaError as error:
            progress(f"if there is something in an AWS account it stays, for the settings are wrong: {error}")
            return
        if settings.cloud.aws is not None and not settings.etcd.client.endpoints:
            from shards.aws_life import claim_of, clean_account

            if not keep:
                clean_account(settings, settings.cloud.aws, self.home, progress)
            elif (claim := claim_of(self.home)) is not None:
                progress(f"left in AWS, {claim.region}: all that is tagged milpa-cluster-uuid={claim.uuid}")

    def leftovers(self) -> list[str]:
        """What of this home runs or is set up on the machine, besides files."""
        found = [f"process {process.pid} ({process.title})" for process in self.ray.processes()]
        cloud = local_cloud(self.home)
        if cloud.directory.exists():
            found += cloud.leftovers()
        if endpoint := self._etcd().running():
            found.append(f"etcd at {endpoint}")
        return found

    def _delete_data(self, progress: Progress) -> None:
        data_dirs = [self.home.data]
        try:
            data_dirs.append(Path(self.settings.etcd.internal.data_dir))
        except MilpaError as error:
            progress(f"a data directory that only the settings name stays, for they are wrong: {error}")
        for folder in dict.fromkeys(data_dirs):
            # etcd's own folder only: a directory that the settings name may hold other things.
            if (folder / "member").exists():
                shutil.rmtree(folder / "member")
                progress(f"deleted the store in {folder}")
        for folder in (self.home.local, self.home.run, self.home.log):
            if folder.exists():
                shutil.rmtree(folder)
                progress(f"deleted {folder}")


def _names_data_dir(config_file: str) -> bool:
    """Whether the user's etcd configuration names the data directory, which then is not ours to name."""
    if not config_file:
        return False
    try:
        loaded = yaml.safe_load(Path(config_file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return False  # etcd's start tells what is wrong with it
    return isinstance(loaded, dict) and bool(loaded.get("data-dir"))
