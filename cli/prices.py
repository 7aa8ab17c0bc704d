"""Prices of instance types for commands that need no server: milpactl's one door to the catalogue, which is data only.

NumPy is imported here at the first call, and nowhere before.
"""

from typing import TYPE_CHECKING

from cli.reporting import CommandFailed, UsageError

if TYPE_CHECKING:
    from cloud.catalog import Found


def prices_of(region: str) -> "Found":
    """The region's catalogue: refreshed prices of this machine when there are newer ones, else those shipped.

    Raises:
        UsageError: nobody knows the region.
        CommandFailed: NumPy is missing.
    """
    from milpa_ray.errors import Invalid
    from milpa_ray.paths import Home

    try:
        from cloud.catalog import find_catalog
    except ImportError as missing:
        raise CommandFailed(
            f"explain computes with NumPy, which cannot be imported ({missing}): pip install 'milpa-ray[prices]'"
        ) from None
    try:
        return find_catalog(region, Home.from_env().catalog)
    except Invalid as unknown:
        raise UsageError(str(unknown)) from None


def refresh_of(region: str) -> str:
    """The remedy for old prices of a region; empty when there is none."""
    from cloud.catalog import refreshable

    return f"'milpa catalog refresh --region {region}' fetches today's" if refreshable(region) else ""


def complete_region(incomplete: str) -> list[str]:
    """Regions with known prices, for the shell; none when they cannot be read."""
    from milpa_ray.paths import Home

    try:
        from cloud.catalog import regions

        return [name for name in regions(Home.from_env().catalog) if name.startswith(incomplete)]
    except Exception:
        # As with names of objects: a message in the middle of the user's command line would be worse.
        return []
