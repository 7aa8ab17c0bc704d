"""``milpa``: brings the server up and down on this machine. What each command does is in ``shards``, imported late.

``milpactl`` is the client; nothing of it is here.
"""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli import milpa_catalog
from cli.milpa_options import Config, HomeDir, Output
from cli.milpa_options import check_output as _check_output
from cli.milpa_options import home_of as _home
from cli.reporting import CommandFailed, UsageError, note, report

if TYPE_CHECKING:
    from milpa_ray.paths import Home

app = typer.Typer(
    name="milpa",
    help="Run Milpa's controllers on this machine.",
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(milpa_catalog.app)

DisableTls = Annotated[
    bool, typer.Option("--disable-tls", help="Let anyone who reaches the API port do anything. For trying things out.")
]
NodeIp = Annotated[
    str, typer.Option("--node-ip", help="This host's address for controllers on other hosts; loopback: none.")
]
RayPort = Annotated[int, typer.Option("--ray-port", help="Port of Ray's head; 0: any free one.", min=0, max=65535)]

TakeOverName = Annotated[
    bool,
    typer.Option(
        "--take-over-name", help="On AWS: take the cluster's name from an installation that is gone for good."
    ),
]
Autoscaling = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--autoscaling-config", help="What 'ray up' left on the head, so that it starts the workers."),
]


def progress(text: str) -> None:
    """One step that was done."""
    note(f"  {text}")


@app.command()
def up(
    home: HomeDir = None,
    config: Config = None,
    disable_tls: DisableTls = False,
    node_ip: NodeIp = "127.0.0.1",
    ray_port: RayPort = 0,
    autoscaling_config: Autoscaling = None,
    take_over_name: TakeOverName = False,
) -> None:
    """Start everything, and wait until it is ready. Pods that ran before are taken over as they are."""
    from shards.doctor import require
    from shards.installation import Installation
    from shards.layout import UpOptions, load_options, make_home

    where = _home(home)
    scaling = str(autoscaling_config.expanduser().absolute()) if autoscaling_config else ""
    options = UpOptions(str(config.absolute()) if config else "", not disable_tls, node_ip, ray_port, scaling)
    installation = Installation(where, options)
    began = time.monotonic()
    note(f"Milpa in {where.root}")
    if make_home(where):
        progress(f"wrote {where.server_yml}")
    if take_over_name and installation.settings.cloud.aws is None:
        raise UsageError("--take-over-name: only clusters on AWS register their names; leave it out")
    for check in require(installation):
        progress(f"{check.name}: {check.detail} (what helps: {check.remedy})")
    if not installation.up(progress, take_over_name=take_over_name):
        note("Milpa is up already.")
        _say_ignored(options.ignored(load_options(where)))
        return
    port = installation.settings.controllers.api_port
    note(f"Milpa is up after {time.monotonic() - began:.1f} s; the API is at port {port}, logs are in {where.log}.")


def _say_ignored(flags: list[str]) -> None:
    if flags:
        for flag in flags:
            note(f"  {flag}")
        note("To apply other flags: 'milpa stop', then 'milpa up' with them. Pods go on running meanwhile.")


@app.command()
def stop(home: HomeDir = None) -> None:
    """End the controllers. Instances and their pods go on; 'milpa up' takes them over."""
    from shards.installation import Installation
    from shards.layout import was_up

    where = _home(home)
    Installation.found(where).stop(progress)
    note("Milpa is stopped." if was_up(where) else f"{_never(where)} There was nothing to stop.")


@app.command()
def down(
    home: HomeDir = None,
    delete_data: Annotated[
        bool,
        typer.Option(
            "--delete-data", help="Delete the store, images and logs, too; on AWS also what the account has of it."
        ),
    ] = False,
    keep_cloud: Annotated[
        bool,
        typer.Option(
            "--keep-cloud", help="With --delete-data: delete what is on this machine only; call AWS for nothing."
        ),
    ] = False,
) -> None:
    """End and remove everything of Milpa on this machine, pods included. Data is kept."""
    from shards.installation import Installation
    from shards.layout import was_up

    if keep_cloud and not delete_data:
        raise UsageError("--keep-cloud: without --delete-data nothing in the cloud is deleted; leave it out")
    where = _home(home)
    known = was_up(where)
    Installation.found(where).down(progress, delete_data=delete_data, keep_cloud=keep_cloud)
    if not known:
        note(f"{_never(where)} There was nothing to take down.")
        return
    kept = "" if delete_data else f" Its data stays in {where.root}."
    note(f"Nothing of Milpa runs here any more.{kept}")


@app.command()
def server(
    home: HomeDir = None,
    config: Config = None,
    disable_tls: DisableTls = False,
    node_ip: NodeIp = "127.0.0.1",
    ray_port: RayPort = 0,
    join: Annotated[str, typer.Option("--join", help="Ray address (host:port) of a head to join as a worker.")] = "",
) -> None:
    """Run in the foreground, for a service manager: start, keep it running, and stop on SIGTERM or Ctrl-C."""
    from shards.foreground import serve, serve_worker
    from shards.installation import Installation
    from shards.layout import UpOptions

    where = _home(home)
    options = UpOptions(str(config.absolute()) if config else "", not disable_tls, node_ip, ray_port)
    installation = Installation(where, options)
    if join:
        serve_worker(installation, join, note)
    else:
        serve(installation, note)


@app.command()
def doctor(
    home: HomeDir = None,
    config: Config = None,
    cloud: Annotated[str, typer.Option("--cloud", help="Only the checks of that cloud: 'aws' or 'local'.")] = "",
    output: Output = "",
) -> None:
    """Check whether this machine and the cloud can run Milpa, and say how to mend what is wrong. Changes nothing."""
    from cli.milpa_tables import show_checks
    from cli.reporting import UsageError
    from shards.doctor import examine
    from shards.installation import Installation
    from shards.layout import UpOptions, load_options

    _check_output(output)
    if cloud not in ("", "aws", "local"):
        raise UsageError(f"--cloud {cloud}: there are 'aws' and 'local'")
    where = _home(home)
    options = UpOptions(str(config.absolute())) if config else load_options(where)
    checks = examine(Installation(where, options), cloud=cloud, thorough=True)
    show_checks(checks, output)
    failed = [check for check in checks if check.essential and not check.ok]
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(checks)} checks failed: {', '.join(c.name for c in failed)}")


@app.command()
def status(
    home: HomeDir = None,
    output: Output = "",
) -> None:
    """Show what runs, and how it does. Exit code 1 unless all is up."""
    from cli.milpa_tables import show_status
    from shards.catalogs import age_warning
    from shards.foreground import state_of
    from shards.installation import Installation
    from shards.layout import was_up

    _check_output(output)
    where = _home(home)
    if not was_up(where):
        show_status([], output)
        raise CommandFailed(f"{_never(where)} Start it with 'milpa up', or name another home (--home or MILPA_HOME)")
    installation = Installation.found(where)
    parts, troubles = state_of(installation)
    show_status(parts, output)
    if warning := age_warning(where, installation.settings):
        note(f"Warning: {warning}")
    for trouble in troubles:
        note(f"Warning: {trouble}")
    if not all(part.ok for part in parts):
        raise CommandFailed("Milpa is not up: start it with 'milpa up'")


def _never(home: "Home") -> str:
    return f"Milpa was never started in {home.root}."


def main() -> None:
    """Entry point. Ends the process with the exit code that ``cli.reporting`` lists."""
    try:
        app(prog_name="milpa", standalone_mode=True)
    except (Exception, KeyboardInterrupt) as problem:
        sys.exit(report(problem))


if __name__ == "__main__":
    main()
