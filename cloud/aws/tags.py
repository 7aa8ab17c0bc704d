"""Tags as EC2 writes them, and what it allows of them."""

from collections.abc import Iterable, Mapping

from milpa_ray.errors import Invalid

MAX_TAGS = 50
"""Tags of one resource; AWS' own (aws:*) don't count."""
MAX_KEY_CHARS = 128
MAX_VALUE_CHARS = 256


def to_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As the API takes them, in a fixed order."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def from_tags(told: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    """As the API tells them."""
    return {tag["Key"]: tag.get("Value", "") for tag in told or ()}


def check_tags(what: str, tags: Mapping[str, str], others: Iterable[str] = ()) -> None:
    """Checks tags that ``what`` is to have besides those with the keys ``others``.

    Raises:
        Invalid: EC2 would refuse them.
    """
    count = len(set(tags) | set(others))
    if count > MAX_TAGS:
        raise Invalid(f"{what}: {count} tags are more than EC2's {MAX_TAGS}; use fewer labels")
    for key, value in tags.items():
        if key.lower().startswith("aws:"):
            raise Invalid(f"{what}: tag {key!r} is refused by EC2, which keeps aws:* for itself; rename the label")
        if not key or len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            raise Invalid(
                f"{what}: tag {key[:MAX_KEY_CHARS]!r} is refused by EC2: keys have 1 to {MAX_KEY_CHARS} characters, "
                f"values up to {MAX_VALUE_CHARS}; shorten the label"
            )


def grouped(tags: Mapping[str, Mapping[str, str]]) -> list[tuple[list[str], dict[str, str]]]:
    """Resources with equal tags together: (ids, their tags)."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for resource, wanted in tags.items():
        if wanted:
            groups.setdefault(tuple(sorted(wanted.items())), []).append(resource)
    return [(ids, dict(wanted)) for wanted, ids in groups.items()]
