"""The process of one run, `python -P -m kit.batch.execute FOLDER`: Papermill executes its notebook.

Its exit status is the truth about the run, and the last line of its log says why it failed.
"""

import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import psutil

sys.modules["rfc3987_syntax"] = None  # a second of imports, for a check of addresses that nothing here makes

from jupyter_client.kernelspec import KernelSpec  # noqa: E402
from jupyter_client.manager import AsyncKernelManager  # noqa: E402
from nbclient.exceptions import CellExecutionError, DeadKernelError  # noqa: E402
from papermill.clientwrap import PapermillNotebookClient  # noqa: E402
from papermill.engines import Engine, papermill_engines  # noqa: E402
from papermill.iorw import load_notebook_node  # noqa: E402
from papermill.parameterize import parameterize_notebook  # noqa: E402

from kit.batch.process import FAILED  # noqa: E402
from kit.record import formatting as fmt  # noqa: E402
from kit.record import store  # noqa: E402
from kit.record.redaction import impersonal  # noqa: E402

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PATIENCE_S = 120  # for a kernel to start and to hand over what it printed: a machine that is measured may be busy
_REPLY_S = 10.0  # for a kernel's reply after the end of a cell; where its own handler failed there never is one


class _Kernel(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernelspecs are installed, which remembers how it ended."""

    code: ClassVar[int | None] = None
    kernel_spec = KernelSpec(
        argv=[sys.executable, "-W", "ignore:IProgress not found", "-m", "ipykernel_launcher", "-f", "{connection_file}",
              "--InteractiveShell.system_raise_on_error=True"],
        display_name="The interpreter that runs the kit", language="python",
    )  # fmt: skip

    async def is_alive(self) -> bool:
        _Kernel.code = await self.provisioner.poll() if self.provisioner else None
        return await super().is_alive()


class _Client(PapermillNotebookClient):
    """Reports which cell it is at, remembers the error that ended it, and ends where a kernel's handler failed."""

    cell, error = 0, None
    ended = math.inf  # when the kernel reported the end of the cell, by time.monotonic

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        _Client.cell, self.ended = cell_index + 1, math.inf
        if cell.cell_type == "code" and cell.source.strip():
            line = fmt.shown(cell.source.strip().splitlines()[0], 40)
            _report(Path(self.nb_man.output_path).parent, f"cell {self.cell} of {len(self.nb.cells)}: {line}")
        try:
            return super().execute_cell(cell, cell_index, **options)
        except CellExecutionError as error:
            _Client.error = error
            raise

    def process_message(self, msg: dict[str, Any], *options: Any) -> Any:
        if msg["msg_type"] == "status" and msg["content"]["execution_state"] == "idle":
            self.ended = time.monotonic()
        return super().process_message(msg, *options)

    async def _async_check_alive(self) -> None:
        await super()._async_check_alive()
        if time.monotonic() - self.ended > _REPLY_S:
            raise DeadKernelError


class _Engine(Engine):
    """Papermill's engine with the client and the kernel above."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        nb_man.save = lambda: _save(nb_man.nb, Path(nb_man.output_path))
        _Client(nb_man, kernel_name=kernel_name, kernel_manager_class=_Kernel, timeout=None, **options).execute()


def _save(notebook: Any, path: Path) -> None:
    """Write the notebook whole, without Papermill's metadata, which call the cells of a kernel that died completed."""
    document = json.loads(json.dumps(notebook))
    for part in (document, *document["cells"]):
        part["metadata"].pop("papermill", None)
    store.put(path, json.dumps(document, indent=1, ensure_ascii=False))


def main(folder: Path) -> None:
    """Execute `folder/notebook.ipynb` in place, with the parameters in a line of stdin, as JSON; exit with 1, the last
    line saying why, if it did not get through."""
    given = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_batch, daemon=True).start()
    _report(folder, "starting the kernel")
    logging.basicConfig(level=logging.INFO)
    logging.getLogger().handlers[0].setFormatter(_WithoutSecrets("%(asctime)s %(message)s"))
    papermill_engines.register("kit", _Engine)
    path, language = str(folder / "notebook.ipynb"), {"kernel_name": "python3", "language": "python"}
    notebook = load_notebook_node(path)
    try:
        papermill_engines.execute_notebook_with_engine(
            "kit", parameterize_notebook(notebook, given, **language) if given else notebook, "python3",
            output_path=path, progress_bar=False, log=logging.getLogger("papermill"), log_output=True,
            startup_timeout=_PATIENCE_S, iopub_timeout=_PATIENCE_S,
        )  # fmt: skip
        reason = _error(_Client.error) if _Client.error else ""
    except DeadKernelError:
        reason = f"the kernel's own handler failed at cell {_Client.cell}, and never replied; its error is in the log"
        if _Kernel.code is not None:
            reason = f"the kernel died ({_death(_Kernel.code)})"
    if reason:
        print(FAILED + fmt.shown(_COLOURS.sub("", reason), 1000), file=sys.stderr)
        sys.exit(1)


def _error(error: CellExecutionError) -> str:
    """Return why a cell ended the run; nothing where it asked for the end."""
    if error.ename == "SystemExit" and error.evalue in ("", "0", "None"):
        return ""
    print(impersonal(_COLOURS.sub("", error.traceback)), file=sys.stderr)
    remedy = "; the kit's own notebooks need 'ml-scaling-kit[all]'" * (error.ename == "ModuleNotFoundError")
    return f"{error.ename}: {error.evalue}".rstrip(": ") + remedy


class _WithoutSecrets(logging.Formatter):
    """Papermill logs all that a notebook prints: whatever that is, a log is read by others."""

    def format(self, record: logging.LogRecord) -> str:
        return impersonal(_COLOURS.sub("", super().format(record)))


def _report(folder: Path, line: str) -> None:
    """Report what is shown if nothing else is reported for ten seconds; a comparison reports for itself."""
    store.put(folder / "progress.json", json.dumps({"line": line, "after_s": 10}))


def _end_with_the_batch() -> None:
    """Wait for the end of stdin, which the batch holds open: if it was killed, its run must not go on measuring."""
    os.read(0, 1)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
    os._exit(1)


def _death(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    hint = "; often the system had no memory left" if -code == signal.SIGKILL else ""
    return f"killed by signal {-code}, {signal.Signals(-code).name}{hint}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
