"""What a check of ``doctor`` finds, and what all checks share while they run."""

from dataclasses import dataclass, field
from pathlib import Path

from cloud.aws.images import Images
from cloud.aws.network import Network
from cloud.aws.session import AwsSession
from milpa_ray.clock import Clock
from milpa_ray.settings import Aws, Settings

POLICY_REMEDY = "allow it: docs/iam-policy.json has all that Milpa needs"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. ``remedy`` is empty when ``ok``. ``essential``: Milpa cannot work without it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    essential: bool = True


def good(name: str, detail: str) -> Finding:
    return Finding(name, True, detail)


def bad(name: str, detail: str, remedy: str) -> Finding:
    """Milpa does not work before this is mended."""
    return Finding(name, False, detail, remedy)


def hint(name: str, detail: str, remedy: str) -> Finding:
    """Milpa works all the same, but perhaps not as its user thinks."""
    return Finding(name, False, detail, remedy, essential=False)


@dataclass(slots=True)
class Survey:
    """``catalog`` is the folder of refreshed prices. ``starting``: asked before a start, which what may mend itself, or
    concerns new nodes only, is not to hinder: running pods are to be taken over. What a check finds out is left here
    for later ones, empty until then: the default type's ``arch``, the ``image`` and the ``subnet`` that a launch would
    name."""

    session: AwsSession
    settings: Settings
    aws: Aws
    clock: Clock
    catalog: Path | None
    starting: bool = False
    network: Network = field(init=False)
    images: Images = field(init=False)
    arch: str = "amd64"
    vpc: str = ""
    subnet: str = ""
    image: str = ""

    def __post_init__(self) -> None:
        self.network = Network(self.session, self.aws.vpc_id)
        self.images = Images(self.session, self.aws.image_owner_id, self.settings.nodes.boot_image_tags)

    def later(self, name: str, detail: str, remedy: str) -> Finding:
        """Bad, but no reason not to start."""
        return Finding(name, False, detail, remedy, essential=not self.starting)
