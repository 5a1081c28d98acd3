"""Masks what must not be written down: passwords, keys and tokens, by their form and by the values of this environment.

Three ways to know a secret: where it stands (in an address, after `password=`), how it is made (`ghp_…`, `AKIA…`), and
what it is: the values of this process's own environment variables whose names say that they are secret.
"""

import os
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import quote, unquote

MASK = "***"

_NAME = (
    r"(?:password|passwd|passphrase|secret|credentials?|authorization|"
    r"(?:api|access|secret|private|account|storage|signing|encryption|shared)[_-]?key(?:[_-]?id)?|"
    r"(?:access|auth|session|refresh|bearer|id|api|github|gitlab|hub|hf|security|security[_-]session)[_-]?token)"
)
"""The end of a name that is a secret's, in whatever letters."""
_KEY = re.compile(rf"[\w.-]*(?:{_NAME}|(?:^|_)(?:pwd|token))", re.IGNORECASE)
_VARIABLE = re.compile(rf"(?:.*_)?(?:{_NAME}|PASS|TOKEN|DSN)|.+_(?:PWD|PAT|AUTH)", re.IGNORECASE)

_ADDRESS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]{0,30}://)"
    r"(?:[^/\s'\"@:?#]{0,200}:(?!\d{1,5}[/?#\s]|//)[^\s'\"@]{0,500}@(?:[^/\s'\"@]{0,200}@)*|[^/\s'\"]{1,500}@)",
    re.IGNORECASE,
)
"""An address with its user: a key of S3 may hold slashes, so they may stand in a password, not in a port."""
_QUERY = re.compile(
    r"(?P<name>[?&;#](?:x-(?:amz|goog|oss)-[\w-]{1,60}|[\w.-]{0,60}"
    r"(?:sig|signature|token|secret|password|passwd|pwd|credential|key|keyid|key_id|auth)))=[^&;#\s'\"]+",
    re.IGNORECASE,
)
"""A query's part that signs or opens an address: as dangerous as a password."""
_HEADER = re.compile(
    r"(?P<name>\b(?:(?:proxy-)?authorization|x-api-key|x-auth-token|set-cookie|cookie)\b[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?:basic|bearer|digest|token|negotiate|aws4-hmac-sha256)\s+)?|\bbearer\s+(?=[\w.~+/-]{12}))[^\s\"',]+",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    rf"(?P<name>(?<![\w.-])[\w.-]{{0,60}}(?:{_NAME}|token)[\"']?\]?\s*[:=]\s*)(?P<mark>[\"'])[\w.~+/=!$%^&*-]{{8,2000}}(?P=mark)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"(?P<name>\b[A-Z][A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|ACCESS_KEY|ACCESS_KEY_ID|SECRET_KEY)"
    r"|(?<![\w.])(?:password|passwd|pwd|AccountKey|SharedAccessSignature))=(?![\s\"'*({\[]|(?:os|self|getpass)\.|\w{1,60}[(\[])[^\s\"',;&)]{3,}"
)
"""As a shell or a database's connection string writes it; a call or a look-up in code is none."""
_MADE = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{30,}|github_pat_\w{30,}|glpat-[\w-]{18,}|hf_[A-Za-z0-9]{30,}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{40,}"
    r"|Basic (?=[A-Za-z+/]{0,60}\d)[A-Za-z0-9+/]{12,}={0,2}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
)
_PRIVATE = re.compile(r"-----BEGIN ([A-Z ]{0,30}PRIVATE KEY)-----.{1,8000}?(?:-----END \1-----|\Z)", re.DOTALL)

_SIGNS = tuple(
    "= : AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ _pat_ glpat- hf_ sk- xox AIza npm_ pypi- eyJ BEGIN earer Basic".split()
)
"""Every text with a secret that is known by its place or its form contains one of these (a header: its colon)."""


def masked(text: str) -> str:
    """Return `text` without secrets.

    >>> masked("s3://key:secret@bucket/x?X-Amz-Signature=0abc")
    's3://***@bucket/x?X-Amz-Signature=***'
    """
    if any(sign in text for sign in _SIGNS):
        text = _ADDRESS.sub(rf"\g<scheme>{MASK}@", text)
        text = _ASSIGNED.sub(rf"\g<name>={MASK}", _QUERY.sub(rf"\g<name>={MASK}", text))
        text = _QUOTED.sub(rf"\g<name>\g<mark>{MASK}\g<mark>", _HEADER.sub(rf"\g<name>{MASK}", text))
        text = _MADE.sub(MASK, _PRIVATE.sub(rf"-----BEGIN \g<1>-----{MASK}", text))
    known = _known()
    return known.sub(MASK, text) if known else text


def told_of(address: str, error: object) -> str:
    """Return what an error says about an address, without the user of the address, who may stand in it bare."""
    user, text = address.partition("://")[2].rpartition("@")[0], str(error)
    for part in (user, unquote(user), *re.split("[:/]", user), *re.split("[:/]", unquote(user))):
        text = text.replace(part, MASK) if len(part) > 3 else text
    return masked(text)


def impersonal(text: str) -> str:
    """Return `text` without secrets, and with `~` for the home folder: for what is kept and given to others."""
    home, text = _home(), masked(text)
    return home.sub("~", text) if home and "/" in text else text


def is_secret(name: str) -> bool:
    """Return whether a name says that its value is a secret: `aws_secret_access_key`, `password`, not `max_tokens`."""
    return len(name) <= 100 and _KEY.fullmatch(name) is not None


def known(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets of an environment, longest first: values of variables whose names say so, passwords in
    addresses, each also as it is written in an address."""
    found = {value.strip() for name, value in environment.items() if _VARIABLE.fullmatch(name)}
    addresses = (re.search(r"://[^\s/@:]*:([^\s@/]+)@", value) for value in environment.values())
    found |= {address[1] for address in addresses if address}
    found |= {quote(secret, safe="") for secret in found} | {unquote(secret) for secret in found}
    return sorted((secret for secret in found if len(secret) >= 6 and not _plain(secret)), key=lambda s: (-len(s), s))


def _plain(value: str) -> bool:
    """Return whether a value is no secret, whatever its variable is called: a switch, a path that stands here."""
    return value.lower() in ("disabled", "enabled", "default", "password", "secret") or (
        value.startswith(("/", "~")) and os.path.exists(os.path.expanduser(value))
    )


@cache
def _known() -> re.Pattern | None:
    secrets = known(os.environ)
    return re.compile("|".join(map(re.escape, secrets))) if secrets else None


@cache
def _home() -> re.Pattern | None:
    """Return the home folder as a pattern, as it is named and as it really lies; None where it is the root."""
    named = os.path.expanduser("~").rstrip("/")
    homes = sorted({named, os.path.realpath(named or "/")} - {"", "/"}, key=len, reverse=True)
    ends = "|".join(map(re.escape, homes))
    return re.compile(rf"(?<![\w.-])(?:{ends})(?![\w.-])") if homes else None
