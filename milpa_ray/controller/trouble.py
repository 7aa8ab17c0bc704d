"""What keeps failing with the cloud, and since when; for ``milpa status`` and ``milpactl dump``. Logs nothing."""

from datetime import datetime

from milpa_ray.clock import Clock


class Trouble:
    """The run of failures that something is in at the moment. ``what`` says for people what it tries."""

    def __init__(self, clock: Clock, what: str) -> None:
        self._clock = clock
        self._what = what
        self._error = ""
        self._since: datetime | None = None

    def failed(self, error: Exception) -> None:
        """The last try failed."""
        self._error = str(error) or "no answer"
        self._since = self._since or self._clock.now()

    def over(self) -> None:
        """The last try went well."""
        self._error, self._since = "", None

    def dump(self) -> list[dict[str, str]]:
        """Nothing, or ``what``, ``error`` and ``since`` (RFC 3339)."""
        if self._since is None:
            return []
        return [{"what": self._what, "error": self._error, "since": self._since.isoformat(timespec="seconds")}]
