"""Where a search is kept so that many can work on it: one address, and what opens it.

""                                a journal file in a folder of its own, under the run or under `runs/interactive/`
journal:/shared/search.log        a journal file of that name
sqlite:///search.db, postgresql://user:password@host/name     a database
grpc://host:port                  Optuna's proxy before a database
dask                              a private Dask cluster here, in whose scheduler the search is kept while it lives
tcp://scheduler:8786              a Dask cluster that is there; workers are tasks on it
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import places
from kit.errors import UserError
from kit.record.store import clean

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

ALLOWED = (
    "'' (a journal file here), journal:search.log, a database as sqlite:///search.db, grpc://host:port, dask, or "
    "tcp://scheduler:8786"
)
JOURNAL, GRPC, DASK, TCP = "journal:", "grpc://", "dask", "tcp://"
IN_SCHEDULER = "kit searches"
"""The name under which Dask's scheduler keeps the searches."""
ANSWER_S = 5.0
START_S = 30.0
SQLITE_WAITS_S = 60.0
"""SQLite lets one process write at a time; the others wait so long for their turn."""


def address(storage: str, name: str) -> str:
    """Return the address under which any process finds the search `name`: if `storage` is empty, a journal file's."""
    if storage:
        return storage
    run = os.environ.get("KIT_RUN")
    folder = Path(run) if run else places.project() / "runs" / "interactive"
    slug = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "search"
    return f"{JOURNAL}{folder.absolute() / 'searches' / slug / 'journal.log'}"


def masked(storage: str) -> str:
    """Return the address as it may be shown: without password and home folder."""
    return clean(storage)


def on_dask(storage: str) -> bool:
    """Tell whether workers are tasks of a Dask cluster."""
    return storage == DASK or storage.startswith(TCP)


def opened(storage: str, client: Any = None) -> "BaseStorage":
    """Open a storage by its address. client: of the Dask cluster, if there is one already.

    Raise `UserError` that says what to do, for an address that is none, a driver that is missing, and a server that
    does not answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that gRPC and Dask are experimental
        for prefix, opening in _OPENINGS.items():
            if storage.startswith(prefix):
                return opening(storage)
        if on_dask(storage):
            return _in_scheduler(storage, client)
        if "://" not in storage:
            raise UserError(f"storage={masked(storage)!r} is none; give {ALLOWED}")
        return _database(storage)


@contextlib.contextmanager
def must_answer(storage: str) -> Iterator[None]:
    """Turn the error of a storage that has stopped answering into a `UserError` that says how to go on."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise UserError(
            f"storage={masked(storage)!r} has stopped answering: {_first_line(error)}; bring it back, and search under "
            "the same name to go on"
        ) from error


_LIBRARIES = ("optuna", "sqlalchemy", "grpc", "distributed", "sqlite3")


def _journal(storage: str) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    path = Path(storage.removeprefix(JOURNAL))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = KernelLock(path) if sys.platform != "win32" else JournalFileOpenLock(str(path))
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise UserError(
            f"storage={masked(storage)!r} can't be written: {error.strerror}; name a file in a folder of yours"
        ) from None
    except ValueError as error:
        raise UserError(f"storage={masked(storage)!r} is no journal of Optuna ({error}); name another file") from None


class KernelLock:
    """A journal's lock that the kernel takes back from a process that dies, so that nobody waits for the dead.

    Optuna's own locks are files: one that a killed process leaves is waited for 30 s. Who gets the lock also cuts off
    what a killed process wrote of a line: Optuna refuses a journal with a torn line in it. The file system must keep
    locks (local ones and NFS 4 do).
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._held: Any = None

    def acquire(self) -> bool:
        """Wait for the lock and mend the journal's end."""
        import fcntl

        held = open(f"{self._journal}.lock", "ab")  # noqa: SIM115, closing it gives the lock back
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._held.close()


def _cut_torn_line(journal: Path) -> None:
    with open(journal, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0 or (file.seek(size - 1) is not None and file.read(1) == b"\n"):
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def _proxy(storage: str) -> "BaseStorage":
    try:
        from optuna.storages import GrpcStorageProxy

        host, port = _host_and_port(storage, GRPC)
        proxy = GrpcStorageProxy(host=host, port=port)
        proxy.wait_server_ready(timeout=ANSWER_S)
    except ImportError as error:
        raise UserError(f"storage={storage!r} needs gRPC ({error}); pip install grpcio protobuf") from None
    except ConnectionError:
        raise UserError(
            f"storage={storage!r} does not answer; start optuna.storages.run_grpc_proxy_server(…) there, or give "
            "another storage"
        ) from None
    return proxy


def _database(storage: str) -> "BaseStorage":
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    waits = {"connect_args": {"timeout": SQLITE_WAITS_S}} if storage.startswith("sqlite") else {}
    try:
        return get_storage(RDBStorage(storage, engine_kwargs=waits))
    except (NoSuchModuleError, ArgumentError):
        raise UserError(f"storage={masked(storage)!r} is no database that is known; give {ALLOWED}") from None
    except ImportError as error:
        reason = error.__cause__ or error
        raise UserError(f"storage={masked(storage)!r} needs a driver ({reason}); install it with pip") from None
    except (SQLAlchemyError, RuntimeError) as error:
        raise UserError(
            f"storage={masked(storage)!r} can't be opened: {_first_line(error)}; see that it runs, and that user, "
            "password and name are right"
        ) from None


def _first_line(error: Exception) -> str:
    lines = clean(str(getattr(error, "orig", None) or error)).splitlines()
    return lines[0] if lines else type(error).__name__


def _in_scheduler(storage: str, client: Any) -> "BaseStorage":
    from optuna_integration.dask import DaskStorage

    return DaskStorage(name=IN_SCHEDULER, client=client or cluster(storage))


def cluster(storage: str) -> Any:
    """Return a client of the Dask cluster at this address. Raise `UserError` if there is none."""
    from distributed import Client

    try:
        return Client(storage, timeout=ANSWER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"storage={masked(storage)!r}: no Dask scheduler answers there ({_first_line(error)}); start "
            "`dask scheduler` and `dask worker`, or give dask for a cluster of this machine"
        ) from None


def _host_and_port(storage: str, scheme: str) -> tuple[str, int]:
    host, _, port = storage.removeprefix(scheme).rstrip("/").rpartition(":")
    if not (host and port.isdigit()):
        raise UserError(f"storage={masked(storage)!r} has no port; write {scheme}host:13000")
    return host, int(port)


_OPENINGS: dict[str, Callable[[str], "BaseStorage"]] = {JOURNAL: _journal, GRPC: _proxy}


# A private proxy -----------------------------------------------------------------------------------------------------


class PrivateProxy:
    """Optuna's gRPC proxy before an SQLite file, as a process on a free port that only this machine reaches.

    It ends with this process, however that ends. Optuna's journal can't stand behind the proxy. Raise `UserError` if it
    does not start.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kit-proxy-")
        self.port = _free_port()
        lifeline, self._lifeline = os.pipe()
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kit.techniques.tuning.workers.proxy", str(lifeline), str(self.port)],
                pass_fds=(lifeline,),
                cwd=self._folder.name,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(lifeline)
        self._wait_until_it_answers()

    @property
    def address(self) -> str:
        return f"{GRPC}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def close(self) -> None:
        """End it and remove what it kept. Safe to call twice."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "PrivateProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _log(self) -> str:
        return f"{self._folder.name}/log.txt"

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        with open(self._log, errors="replace") as log:
            said = log.read()[-300:].strip().replace("\n", " ")
        self.close()
        raise UserError(f"the private gRPC proxy did not start; see whether grpcio is installed: {said or 'no word'}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
