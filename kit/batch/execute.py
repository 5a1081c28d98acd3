"""The process of one run: executes its notebook, parameters on stdin (`python -P -m kit.batch.execute FOLDER`).

Its exit status is the truth about the run: papermill marks the cells of a kernel that died as completed.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import ClassVar, NoReturn

from kit.batch.processes import FAILED, end_descendants
from kit.record import words
from kit.record.masking import impersonal

_MISLEADING = ("Input Notebook", "Output Notebook", "Unable to parse line", "Passed unknown parameter")
"""Lines of papermill's that say nothing true here: it reads parameters line by line, and we have checked them."""

_PATIENCE_S = 120
"""For a kernel to start and to hand over what it printed: a machine that is being measured may be busy."""


def main(folder: Path) -> None:
    """Execute `folder/notebook.ipynb` in place; exit with 1, its last line saying why, if it did not get through."""
    given = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_batch, daemon=True).start()
    logging.basicConfig(level=logging.INFO)
    handler = logging.getLogger().handlers[0]
    handler.addFilter(lambda line: not line.getMessage().startswith(_MISLEADING))
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(message)s"))
    sys.modules["rfc3987_syntax"] = None  # a second of imports, for a check of addresses that nothing here makes
    # Our kernelspec before any that a user or an environment installed under the same name: it means this interpreter.
    ours = Path(__file__).parent / "jupyter"
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(ours), os.environ.get("JUPYTER_PATH")]))
    _execute(folder / "notebook.ipynb", given)


class _WithoutSecrets(logging.Formatter):
    """Papermill logs all that a notebook prints: whatever that is, a log is read by others."""

    def format(self, record: logging.LogRecord) -> str:
        return impersonal(super().format(record))


def _end_with_the_batch() -> None:
    """Wait for the end of stdin, which the batch holds open: if it was killed, its run must not go on measuring."""
    os.read(0, 1)
    end_descendants()
    os._exit(1)


def _execute(notebook: Path, given: dict[str, object]) -> None:
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    class Kernel(AsyncKernelManager):
        """A kernel that remembers how it ended."""

        code: ClassVar[int | None] = None

        async def is_alive(self) -> bool:
            Kernel.code = await self.provisioner.poll() if self.provisioner else None
            return await super().is_alive()

    path = str(notebook).replace("{", "{{").replace("}", "}}")  # papermill formats it with the parameters
    try:
        execute_notebook(
            path,
            path,
            given,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            log_output=True,
            start_timeout=_PATIENCE_S,
            iopub_timeout=_PATIENCE_S,
            kernel_manager_class=Kernel,
        )
    except PapermillExecutionError as error:
        print(impersonal(plain("\n".join(error.traceback))), file=sys.stderr)
        fail(f"{error.ename}: {error.evalue}")
    except DeadKernelError:
        fail(_death(Kernel.code))


def _death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the kernel died (exit status {code})"
    hint = "; often the system had no memory left" if -code == signal.SIGKILL else ""
    return f"the kernel died (killed by signal {-code}, {signal.Signals(-code).name}{hint})"


def plain(text: str) -> str:
    """Return text without a terminal's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def fail(reason: str) -> NoReturn:
    """End this process, the last line of its log saying why."""
    print(FAILED + words.shown(plain(reason), 1000), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
