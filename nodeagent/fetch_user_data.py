"""``python -m nodeagent.fetch_user_data FILE``: puts the instance's user data into a file for the agent to read.

Run before the agent starts. A file that is there is left alone: user data never changes while an instance runs, and the
agent is to start again when the metadata service is away.
"""

import argparse
import sys
import time
from pathlib import Path

from milpa_ray.userdata import UserData
from nodeagent.imds import InstanceMetadata, MetadataUnavailable
from nodeagent.state_dir import write_atomic

_PAUSE_S = 1.0


def fetch(metadata: InstanceMetadata, file: Path, wait_s: float) -> None:
    """Writes the user data to ``file``, mode 0600. Asks again for ``wait_s`` seconds: networks come up late.

    Raises:
        MetadataUnavailable: no answer in that time. ValueError: there is no user data, or none of Milpa's.
        OSError: the file cannot be written.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            data = metadata.read("user-data")
            break
        except MetadataUnavailable:
            if time.monotonic() + _PAUSE_S > end:
                raise
        time.sleep(_PAUSE_S)
    if data is None:
        raise ValueError("this instance was launched without user data: only instances that Milpa launches can serve")
    UserData.unpack(data)
    write_atomic(file, data)


def main() -> int:
    """Exit code 1: nothing was written, and standard error says why."""
    parser = argparse.ArgumentParser(prog="python -m nodeagent.fetch_user_data", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="where to put it; left alone when it is there")
    parser.add_argument("--wait-s", type=float, default=120.0, help="how long to ask (default 120)")
    options = parser.parse_args()
    if options.file.exists():
        return 0
    try:
        fetch(InstanceMetadata(), options.file, options.wait_s)
    except (MetadataUnavailable, ValueError, OSError) as error:
        print(f"fetch_user_data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
