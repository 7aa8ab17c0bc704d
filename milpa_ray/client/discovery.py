"""Which server is talked to when the caller does not say: the environment, else this machine. The Python client and
``milpactl`` both ask here, so that what works for one works for the other. Reads no file and opens no connection."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

ENDPOINTS_VARIABLE = "MILPA_ENDPOINTS"
CERT_DIR_VARIABLE = "MILPA_CERT_DIR"
HOME_VARIABLE = "MILPA_HOME"
DEFAULT_PORT = 54555
DEFAULT_ENDPOINTS = (f"localhost:{DEFAULT_PORT}",)
DEFAULT_HOME = "/opt/milpa"


def split_endpoints(texts: Iterable[str]) -> tuple[str, ...]:
    """The endpoints in ``texts``, of which each may hold several with commas between them."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return tuple(part for part in parts if part)


def default_endpoints() -> tuple[str, ...]:
    """``$MILPA_ENDPOINTS``, else ``localhost:54555``."""
    return split_endpoints([os.environ.get(ENDPOINTS_VARIABLE, "")]) or DEFAULT_ENDPOINTS


def named_cert_dir() -> Path | None:
    """``$MILPA_CERT_DIR``, whose certificates are the only ones then; None when it is not set."""
    text = os.environ.get(CERT_DIR_VARIABLE)
    return Path(text) if text else None


def home_cert_dir() -> Path:
    """``$MILPA_HOME/certs``, or ``/opt/milpa/certs``."""
    return Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME) / "certs"
