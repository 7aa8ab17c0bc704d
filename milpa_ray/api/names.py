"""Syntax of names, labels and references, with Kubernetes' rules.

Each function answers with the reason why the text is wrong, or with empty text. No objects here, only text.
"""

import re

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_ENV = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_DATA_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_IMAGE = re.compile(
    r"(?:(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)/)??"
    r"(?P<path>[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[+.-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)

LABEL_MAX = 63
SUBDOMAIN_MAX = 253
IMAGE_MAX = 512


def _length(text: str, most: int) -> str:
    if not text:
        return "must not be empty"
    return f"must be at most {most} characters long, this one has {len(text)}" if len(text) > most else ""


def dns_label(text: str) -> str:
    """RFC 1123 label: units, volumes, ports, the cluster."""
    if reason := _length(text, LABEL_MAX):
        return reason
    if _LABEL.fullmatch(text):
        return ""
    return _shape(text, "must hold lower-case letters, digits and '-' only, and start and end with a letter or digit")


def service_name(text: str) -> str:
    """RFC 1035 label: Services, whose names become DNS names."""
    if reason := _length(text, LABEL_MAX):
        return reason
    if _SERVICE.fullmatch(text):
        return ""
    return _shape(
        text,
        "must hold lower-case letters, digits and '-' only, start with a letter and end with a letter or digit",
        letter_first=True,
    )


def dns_subdomain(text: str) -> str:
    """RFC 1123 subdomain: the names of all other objects."""
    if reason := _length(text, SUBDOMAIN_MAX):
        return reason
    if _SUBDOMAIN.fullmatch(text):
        return ""
    return _shape(
        text, "must hold lower-case letters, digits, '-' and '.' only, and start and end with a letter or digit"
    )


def _shape(text: str, rule: str, *, letter_first: bool = False) -> str:
    """``rule``, with the nearest good name when one can be made."""
    near = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if letter_first:
        near = near.lstrip("0123456789-")
    return f"{text!r} {rule}" + (f", such as {near[:LABEL_MAX].strip('-')!r}" if near else "")


def qualified(text: str) -> str:
    """Key of a label or annotation: an optional DNS prefix and ``/``, then a name."""
    prefix, slash, name = text.rpartition("/")
    if slash and (reason := dns_subdomain(prefix)):
        return f"prefix {reason}"
    if reason := _length(name, LABEL_MAX):
        return f"name {reason}"
    if _QUALIFIED.fullmatch(name):
        return ""
    return f"{text!r} must hold letters, digits, '-', '_' and '.' only, and start and end with a letter or digit"


def label_value(text: str) -> str:
    """Value of a label; empty is allowed."""
    if not text:
        return ""
    if reason := _length(text, LABEL_MAX):
        return reason
    if _QUALIFIED.fullmatch(text):
        return ""
    return f"{text!r} must hold letters, digits, '-', '_' and '.' only, and start and end with a letter or digit"


def env_name(text: str) -> str:
    if not text:
        return "must not be empty"
    if _ENV.fullmatch(text):
        return ""
    return f"{text!r} must hold letters, digits, '_', '-' and '.' only, and not start with a digit"


def data_key(text: str) -> str:
    """Key in a Secret."""
    if reason := _length(text, SUBDOMAIN_MAX):
        return reason
    if _DATA_KEY.fullmatch(text) and text not in (".", ".."):
        return ""
    return f"{text!r} must hold letters, digits, '-', '_' and '.' only"


def image(text: str) -> str:
    """Image reference by Docker's conventions: ``[host[:port]/]path[:tag][@digest]``."""
    if reason := _length(text, IMAGE_MAX):
        return reason
    if _IMAGE.fullmatch(text):
        return ""
    if "://" in text:
        return f"{text!r} must not begin with a scheme; write {text.split('://', 1)[1]!r}"
    if text != text.lower() and _IMAGE.fullmatch(text.lower()):
        return f"{text!r} is no image reference: the repository must be lower case"
    return f"{text!r} is no image reference; write [host[:port]/]repository[:tag], such as 'library/python:3.6-alpine'"
