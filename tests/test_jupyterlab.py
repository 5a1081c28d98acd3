"""In a real JupyterLab, driven in headless Chromium: what a person sees and interrupts while it measures."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import psutil
import pytest
from batch_project import environment, write_notebook

import kit

PARAMETERS = "size: int = 1_000  # numbers to add\nseconds: float = {seconds}  # time budget"
COMPARISON = """
import time
from kit import Comparison, Result

options = dict(time_budget_s=seconds, equivalence_margin=1e-9, threads=1)
comparison = Comparison("sum", baseline="loop", size=size, unit="numbers", **options)

@comparison.variant("loop")
def loop(numbers):
    {prepare}
    return lambda: (time.sleep(0.005), sum(n for n in range(numbers)))[1]

@comparison.variant("built in")
def built_in(numbers):
    return lambda: (time.sleep(0.005), sum(range(numbers)))[1]

result = comparison.run(size)
result
"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
IDLE = 'text="Python 3 (ipykernel) | Idle"'
INTERRUPT = '.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]'
ROUND = re.compile(r"round (\d+)")


def write(folder: Path, name: str, seconds: float, prepare: str = "pass") -> None:
    """Write a notebook with one comparison, its plot, and a cell that shows the comparison's result."""
    parameters, comparison = PARAMETERS.format(seconds=seconds), COMPARISON.format(prepare=prepare)
    cells = (comparison, "result.plot()", "comparison.result")
    write_notebook(folder / "notebooks" / f"{name}.ipynb", *cells, parameters=parameters, **KERNEL)


def jupyter_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which Jupyter knows nothing of this machine's own settings, and no runner is at work."""
    places = {f"JUPYTER_{kind}_DIR": str(folder / "home" / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    made = environment(folder / "home") | places
    return {name: value for name, value in made.items() if name not in ("KIT_RUN", "KIT_NOTEBOOK")}


def workers(parent: int) -> list[psutil.Process]:
    """Return the processes of variants under a process."""
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        try:
            if "kit.measure.worker" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def records(folder: Path, name: str) -> list[kit.Record]:
    return [kit.read(path) for path in sorted((folder / "runs" / "interactive" / name / "records").glob("*.json"))]


@dataclass
class Lab:
    """A JupyterLab on a project of its own."""

    folder: Path
    port: int
    token: str
    process: subprocess.Popen

    def set(self, plugin: str, **settings) -> None:
        """Change a setting, as a person does in the settings editor."""
        path = (
            self.folder / f"home/config/lab/user-settings/@jupyterlab/apputils-extension/{plugin}.jupyterlab-settings"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/lab/tree/notebooks/{name}.ipynb?token={self.token}&reset"


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium):
    """A running JupyterLab, started in the project's folder as `make lab` does."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "notebooks").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--preferred-dir", "notebooks"]
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}"]
    with open(folder / "lab.log", "wb") as log:
        process = subprocess.Popen(
            command + options, cwd=folder, env=jupyter_environment(folder), stdout=log, stderr=subprocess.STDOUT
        )
    made = Lab(folder, port, token, process)
    made.set("notification", fetchNews="false", checkForUpdates=False, doNotDisturbMode=True)
    try:
        wait_for_port(made)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_port(lab: Lab) -> None:
    deadline = time.monotonic() + 60
    while lab.process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", lab.port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError((lab.folder / "lab.log").read_text()[-2000:])


@pytest.fixture
def tab(chromium):
    """A tab of the browser that leaves a page without asking."""
    context = chromium.new_context(viewport={"width": 1300, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("dialog", lambda dialog: dialog.accept())
    yield page
    context.close()


def opened(tab, lab: Lab, name: str, seconds: float, **options) -> None:
    write(lab.folder, name, seconds, **options)
    tab.goto(lab.url(name))
    tab.wait_for_selector(IDLE)


def run_all(tab) -> None:
    tab.click(".lm-MenuBar-item >> text=Run")
    tab.click('.lm-Menu-item >> text="Run All Cells"')


def rounds(tab) -> int:
    """Return the round that the progress on the page tells, 0 where it tells none."""
    told = ROUND.findall(tab.inner_text(".jp-Notebook"))
    return int(told[-1]) if told else 0


def wait_for_round(tab, number: int) -> None:
    deadline = time.monotonic() + 60
    while rounds(tab) < number:
        assert time.monotonic() < deadline, tab.inner_text(".jp-Notebook")
        time.sleep(0.2)


def lightness(tab, selector: str) -> float:
    """Return how light the ink of an element is, 0 to 255."""
    colour = tab.eval_on_selector(selector, "element => getComputedStyle(element).color")
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_a_changed_parameter_is_run_and_table_and_plot_are_seen(lab, tab, tmp_path):
    """A person changes a parameter, runs all cells, and sees the table and the plot of that value, in the dark theme in
    ink that can be read; the progress has made room for them, and the record holds the parameter."""
    lab.set("themes", theme="JupyterLab Dark")
    opened(tab, lab, "first", seconds=1.0)
    tab.click(".jp-CodeCell >> nth=0 >> .cm-content")
    tab.keyboard.press("Control+a")
    tab.keyboard.insert_text("size: int = 2_500\nseconds: float = 1.0")
    run_all(tab)
    tab.wait_for_selector(".kit svg")
    tab.wait_for_selector(IDLE)
    tab.screenshot(path=os.environ.get("KIT_SCREENSHOTS", str(tmp_path)) + "/jupyterlab.png")
    assert "sum at 2,500 numbers" in tab.inner_text(".kit caption >> nth=0")
    assert "built in" in tab.inner_text(".kit table >> nth=0")
    assert "Speed-up over loop" in " ".join(tab.locator(".kit svg text").all_text_contents())
    assert lightness(tab, ".kit td") > 180
    (record,) = records(lab.folder, "first")
    assert record.complete and record.asked.parameters == {"size": 2_500, "seconds": 1.0}


def show_result(tab) -> None:
    """Run the last cell and see its table."""
    tab.click(".jp-CodeCell >> nth=3 >> .cm-content")
    tab.keyboard.press("Shift+Enter")
    tab.wait_for_selector("text=Interrupted: this is what was measured until then.")


def test_an_interrupted_cell_leaves_a_result(lab, tab, tmp_path):
    """■ pressed twice in mid-round leaves no worker, a record that is not complete, the way to the result on the page,
    and a result that shows its table."""
    opened(tab, lab, "interrupted", seconds=60)
    run_all(tab)
    wait_for_round(tab, 12)
    for _ in range(2):
        tab.click(INTERRUPT)
    tab.wait_for_selector("text=interrupted: what was measured is kept in .result")
    tab.wait_for_selector(IDLE)
    assert not workers(lab.process.pid)
    show_result(tab)
    tab.screenshot(path=os.environ.get("KIT_SCREENSHOTS", str(tmp_path)) + "/jupyterlab_interrupted.png")
    (record,) = records(lab.folder, "interrupted")
    assert not record.complete and len(record.points[0].sessions[0].order) >= 10


class Kernel:
    """A real kernel in a project of its own, which is spoken to as JupyterLab does."""

    def __init__(self, folder: Path):
        from jupyter_client.manager import start_new_kernel

        (folder / "notebooks").mkdir()
        self.folder = folder
        options = dict(cwd=str(folder / "notebooks"), env=jupyter_environment(folder))
        self.manager, self.client = start_new_kernel(kernel_name="python3", **options)

    def start(self, code: str) -> str:
        return self.client.execute(code)

    def said(self, until, seconds: float = 60) -> str:
        """Return what the kernel said until `until(all of it)` holds."""
        text, deadline = "", time.monotonic() + seconds
        while not until(text):
            assert time.monotonic() < deadline, text
            try:
                content = self.client.get_iopub_msg(timeout=0.5)["content"]
            except Empty:
                continue
            text += content.get("text", "") + "".join(map(str, content.get("data", {}).values()))
            text += content.get("ename", "") + "".join(content.get("traceback", []))
        return text

    def run(self, code: str) -> str:
        """Run code to its end and return what it said."""
        self.start(code + "\nprint('the', 'very', 'end')")
        return self.said(lambda text: "the very end" in text)

    def interrupt(self, times: int) -> None:
        for _ in range(times):
            self.manager.interrupt_kernel()
            time.sleep(0.3)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all tests: it lives on after each."""
    made = Kernel(tmp_path_factory.mktemp("kernel"))
    yield made
    made.client.stop_channels()
    made.manager.shutdown_kernel(now=True)


SHOW = """
shown = comparison.result
table, plot = shown._repr_html_(), shown.plot()._repr_html_()
print(shown.record.complete, bool(shown.sentence), "<svg" in plot, "<table" in table and "Interrupted" in table)
"""


@pytest.mark.parametrize(("times", "prepare", "at"), [(1, "pass", "· round "), (3, "time.sleep(40)", "setup of loop")])
def test_interrupted_anywhere_the_result_can_be_used(kernel, prepare, at, times):
    """Interrupted in a round or in preparation, once or by an impatient hand, the kernel lives on with a result whose
    table, plot and sentence work, a record that is not complete, and no worker."""
    code = COMPARISON.format(prepare=prepare)
    kernel.start(f"size, seconds = 1_000, 60.0\n{code}")
    kernel.said(lambda text: at in text)
    kernel.interrupt(times)
    told = "interrupted: what was measured is kept in .result"
    kernel.said(lambda text: "KeyboardInterrupt" in text and told in text)
    kernel.client.kernel_info(reply=True, timeout=60)
    assert not workers(kernel.manager.provisioner.pid)
    assert "False True True True" in kernel.run(SHOW)
    assert not records(kernel.folder, "outside")[-1].complete


def test_a_result_completes_itself(kernel):
    """In a kernel `result["` offers the variants, `result.` its few public names, and `Comparison(` its options."""
    kernel.run("size, seconds = 1_000, 0.2\n" + COMPARISON.format(prepare="pass"))
    assert {"loop", "built in"} <= {match.strip("\"'") for match in completions(kernel, 'result["')}
    offered = {match.rpartition(".")[2] for match in completions(kernel, "result.")}
    assert offered == {"add", "at", "artifacts", "noise_floor", "paired", "path", "plot", "record", "sentence"}
    names = {"baseline=", "time_budget_s="}
    assert {*names, "requires="} & set(completions(kernel, "Comparison(")) == names


def completions(kernel: Kernel, code: str) -> list[str]:
    return kernel.client.complete(code, reply=True, timeout=60)["content"]["matches"]
