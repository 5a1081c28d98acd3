"""Hostile records, notebooks and folders: nothing of theirs runs, calls out, leaves its folder, or takes for ever."""

import json
import os
import subprocess
import sys
import time
import typing

import msgspec
import pytest
from record_factory import Made, machine, make_record

from kit import Chart, Series, Table, report
from kit.record import store
from kit.record.document import PeakShare
from kit.report import build, notebook
from kit.runs import files

OUTSIDE = "EVIL"
"""Stands for the address of the trap in what is hostile."""
HOSTILE = [
    '"><img src=x onerror=__hit=1>',
    "'><svg/onload=__hit=1>",
    "</script><script>__hit=1</script>",
    "$\\href{http://EVIL/e}{x}$ $\\frac{1}{0",
    "</style></title><script>__hit=1</script>",
    "<iframe srcdoc='<script>top.__hit=1</script>'>",
    "]]><script>__hit=1</script><!--",
    "<a href=javascript:__hit=1 autofocus onfocus=__hit=1>",
    "<link rel=preconnect href=http://EVIL>",
    "<img src=http://EVIL/a><meta http-equiv=refresh content=0;url=//EVIL>",
    '" style="background:url(http://EVIL/b)" onmouseover="__hit=1',
    "url(http://EVIL/c);}*{background:url(//EVIL/d)}",
    "{{7*7}}{% include '/etc/passwd' %}${__hit=1}`",
    "\u202e\u2066evil\u2069\u200b\x00\x1b[31m\x07\u2028\u2029",
    "&#60;img src=x onerror=__hit=1&#62;&lt;b&gt;",
    "javascript:__hit=1//http://EVIL/f",
]


def literal(kind: typing.Any) -> bool:
    """Return whether a field takes only texts from a list."""
    return typing.get_origin(kind) is typing.Literal or any(map(literal, typing.get_args(kind)))


def spoilt(value: typing.Any, hostile: str) -> typing.Any:
    """Return a record with `hostile` in front of each text that may be anything: names, keys of maps, reasons, dates.
    What was equal stays equal, so that the parts still fit together."""
    if isinstance(value, str):
        return hostile + value
    if isinstance(value, dict):
        return {spoilt(key, hostile): spoilt(item, hostile) for key, item in value.items()}
    if isinstance(value, list):
        return [spoilt(item, hostile) for item in value]
    if isinstance(value, msgspec.Struct):
        kinds = typing.get_type_hints(type(value))
        free = [name for name in value.__struct_fields__ if name == "artifacts" or not literal(kinds[name])]
        return msgspec.structs.replace(value, **{name: spoilt(getattr(value, name), hostile) for name in free})
    return value


def whole_record(number: int, sizes: list[int]):
    """Return a record that has something in every part of the document."""
    made = {
        "one": Made(),
        "two": Made(ratio=2),
        "odd": Made(ratio=3, broken="differs"),
        "back": Made(ratio=2, fell_back="the CPU"),
        "gone": Made(state="skipped", reason="no device", remedy="get one"),
        "boom": Made(state="failed", reason="killed"),
        "slow": Made(not_timed="too many ranks"),
    }
    record = make_record(made, sizes=sizes, rounds=10, id=f"r{number}", on=machine(gpu="GPU"), comparison=f"c{number}")
    artifacts = [
        Chart("lines", "x", "y", [Series("one", [1], [1]), Series("m", [1], [2], style="modelled")], note="n"),
        Chart("bars", "x", "y", [Series("two", ["a", "b"], [1, 2])], "bars", note="n"),
        Table("table", ["a", "b"], [["x", 1]], note="n"),
    ]  # fmt: skip
    variants = [
        msgspec.structs.replace(
            variant,
            metrics={"loss": 0.1},
            peak_share=PeakShare(peak="memory_copy_gib_per_s", amount=1, share=0.5, note="read"),
        )
        if variant.state == "measured"
        else variant
        for variant in record.points[0].variants
    ]
    points = [msgspec.structs.replace(record.points[0], variants=variants), *record.points[1:]]
    parameters = {"data": "flights", "list": ["a"], "map": {"k": "v"}, "n": number}
    asked = msgspec.structs.replace(record.asked, parameters=parameters)
    return msgspec.structs.replace(record, artifacts=artifacts, points=points, asked=asked, extra={"free": "text"})


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory):
    """The page over records in which every free text is hostile, with the trap's address still to be filled in."""
    folder = tmp_path_factory.mktemp("hostile")
    for number, hostile in enumerate(HOSTILE):
        record = spoilt(whole_record(number, [10, 20] if number < 2 else [10]), hostile)
        run = folder / "runs" / "n" / f"k{number}"
        (run / "records").mkdir(parents=True)
        (run / "records" / "a.json").write_bytes(msgspec.json.encode(record))
        state = {"state": "failed", "error": hostile, "parameters": {hostile: hostile}}
        (run / "status.json").write_text(json.dumps(state))
        (run / "notebook.ipynb").write_text(json.dumps(hostile_notebook(hostile)))
        (run / "records" / f"{number}<img src=x onerror=__hit=1>.json").write_text(hostile)
    runs, out = str(folder / "runs"), folder / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "MOST_DRAWN", 3)  # all are escaped alike
        report.write([runs], str(out))
    return out


def hostile_notebook(hostile: str) -> dict:
    """Return a notebook that says one hostile thing everywhere, and what only a notebook can say."""
    svg = (
        "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' viewBox='0 0 9 9' "
        "onload='parent.__hit=1'>"
        "<script>parent.__hit=1</script><image href='http://EVIL/g'/><use xlink:href='http://EVIL/h#x'/>"
        "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml' onload='parent.__hit=1'><img src='http://EVIL/i'/>"
        "</body></foreignObject>"
        "<style>@import 'http://EVIL/j';</style><a href='javascript:parent.__hit=1'><text>x</text></a></svg>"
    )
    html = (
        f"{hostile}<script>__hit=1</script><img src=http://EVIL/k onerror=__hit=1>"
        "<table background=http://EVIL/l onclick=__hit=1>"
        "<tr><td style='background:url(http://EVIL/m)' colspan='2\" onmouseover=__hit=1 x=\"'>kept</td></tr></table>"
        "<form action=http://EVIL/n><button autofocus onfocus=__hit=1>x</button></form><base href=http://EVIL/>"
        f"<p title='></p><img src=x onerror=__hit=1>'>quoted</p><object data=http://EVIL/o></object>{svg}"
        "<math><mi//xlink:href='data:x,<script>__hit=1</script>'>"
    )
    prose = (
        f"# {hostile}\n\n{hostile}\n\n[x](javascript:__hit=1) ![x](http://EVIL/p) <http://EVIL/q> "
        "<script>__hit=1</script>\n\n"
        f"```{hostile}\n{hostile}\n```\n\n| {hostile} |\n|---|\n| {hostile} |\n\n"
        f"[a]: javascript:__hit=1 '{hostile}'\n[b][a]"
    )
    shown = [
        ("text/html", html),
        ("image/svg+xml", svg),
        ("text/markdown", prose),
        ("text/plain", html),
        ("image/png", html),
    ]
    outputs = [{"output_type": "display_data", "data": {kind: text}} for kind, text in shown]
    outputs += [{"output_type": "stream", "name": "stderr", "text": html}]
    outputs += [{"output_type": "error", "ename": hostile, "evalue": html, "traceback": [html]}]
    script = {"application/javascript": "window.__hit=1", "application/vnd.jupyter.widget-view+json": {"x": hostile}}
    outputs += [{"output_type": "display_data", "data": script, "metadata": {hostile: hostile}}]
    return {
        "cells": [
            {"cell_type": "markdown", "source": prose, "attachments": {"x.png": {"image/png": html}}},
            {
                "cell_type": "code",
                "source": f"{hostile}\n</code></pre><script>__hit=1</script>\n'''{html}",
                "outputs": outputs,
            },
            {"cell_type": "raw", "source": html},
            {"cell_type": hostile, "source": [hostile, 3]},
        ],
        "metadata": {"title": hostile, "kernelspec": {"display_name": hostile}},
    }


POLICY = '<meta http-equiv="Content-Security-Policy"'


def test_no_text_of_a_record_or_notebook_becomes_script_or_request(hostile_report, contexts, trap, tmp_path):
    """With every free text of records, statuses and notebooks hostile, no page runs any of it, opens a dialog, goes
    elsewhere or calls out, however it is used, without its Content-Security-Policy, the second wall; nor does a page of
    each kind violate that policy."""
    context = contexts(viewport={"width": 1280, "height": 800})
    context.add_init_script("document.addEventListener('securitypolicyviolation', () => { window.__refused = 1; })")
    pages = sorted(path for path in hostile_report.rglob("*.html"))
    assert len(pages) == 1 + len(HOSTILE)
    (tmp_path / "site" / "notebooks").mkdir(parents=True)
    for path in pages:
        text = path.read_text().replace(OUTSIDE, trap.address)
        assert POLICY in text
        for file, written in ((path.name, text.replace(POLICY, "<meta name='none'")), (f"{path.stem}-p.html", text)):
            (tmp_path / "site" / path.relative_to(hostile_report).with_name(file)).write_text(written)
    page = context.new_page()
    kinds = [path for path in pages if path.name == "index.html" or path is pages[-1]]
    for path in [*pages, *(path.with_name(f"{path.stem}-p.html") for path in kinds)]:
        address = (tmp_path / "site" / path.relative_to(hostile_report)).as_uri()
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        if path.parent == hostile_report:
            use(page)
        assert page.evaluate("window.__hit") is None and page.url.split("?")[0] == address
        assert page.evaluate("window.__refused") is None, "the policy had to hold something back"
        bad = page.locator("script, iframe, object, embed, base, form, link:not([href='data:,'])").count()
        assert bad == (path.parent == hostile_report), "more script than the page's own"
    assert not trap.calls


def test_what_is_planted_would_hit(chromium, trap, tmp_path):
    """The test above can fail: written into a page as it is, what is planted runs and calls out."""
    planted = [*HOSTILE[:3], HOSTILE[8], *(notebook_text("", kind) for kind in ("text/html", "image/svg+xml"))]
    page, hits, trap.wanted = chromium.new_page(), 0, True
    for hostile in planted:
        (tmp_path / "bad.html").write_text(f"<p title='{hostile}'>{hostile}".replace(OUTSIDE, trap.address))
        page.goto((tmp_path / "bad.html").as_uri(), wait_until="commit")
        page.wait_for_timeout(100)
        hits += page.evaluate("window.__hit === 1")
    page.close()
    assert hits >= 4 and len(trap.calls) >= 3


def notebook_text(hostile: str, kind: str) -> str:
    """Return one of the hostile outputs."""
    outputs = hostile_notebook(hostile)["cells"][1]["outputs"]
    return next(output["data"][kind] for output in outputs if kind in output.get("data", {}))


def use(page) -> None:
    """Sort by everything there is: what a script reads from the page must not become markup."""
    buttons = page.locator("table.sortable th button")
    for number in range(min(buttons.count(), 30)):
        buttons.nth(number).click()


def test_every_hostile_record_was_told(hostile_report):
    """The page above really holds what was planted: each record is told, none was refused."""
    html = (hostile_report / "index.html").read_text()
    assert html.count('class="comparison"') == len(HOSTILE) and "__hit=1" in html and "{{7*7}}" in html
    assert "kept" in (hostile_report / "notebooks" / "n-k0.html").read_text()


AUDIT = """
import json, os, sys
events = []
WATCHED = {
    *"pickle.find_class os.system os.exec os.posix_spawn os.spawn os.fork os.forkpty subprocess.Popen".split(),
    *"socket.connect socket.getaddrinfo ctypes.dlopen import os.symlink os.rename os.remove".split(),
}

def plain(value):
    if isinstance(value, bytes):
        return os.fsdecode(value)
    return value if isinstance(value, (str, int)) else getattr(value, "co_filename", str(value)[:300])

def writes(mode, flags):
    return bool(set(mode) & set("wax+") if isinstance(mode, str) else (flags or 0) & (os.O_WRONLY | os.O_RDWR))

def note(event, arguments):
    if event in WATCHED:
        events.append([event, [plain(argument) for argument in arguments]])
    elif event == "open" and writes(*arguments[1:]):
        events.append(["write", [plain(arguments[0])]])
    elif event in ("exec", "compile"):
        events.append([event, [plain(arguments[-1 if event == "compile" else 0])]])

sys.addaudithook(note)
from kit.cli import main
status = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(events, file)
sys.exit(status)
"""
BAD_PICKLE = b"cos\nsystem\n(S'touch pwned'\ntR."


def test_reading_runs_neither_executes_nor_unpickles_nor_writes_elsewhere(tmp_path):
    """`kit report` over a folder with planted modules, pickles and compiled code starts nothing, unpickles nothing,
    imports and executes no file of that folder, asks no network, and writes into its output folder alone."""
    runs = tmp_path / "runs"
    record = make_record(sizes=[10], notebook="../../../escaped", id="../../escaped")
    run = runs / "01" / "k"
    (run / "records").mkdir(parents=True)
    (run / "records" / "a.json").write_bytes(msgspec.json.encode(record))
    (run / "notebook.ipynb").write_text(
        json.dumps({"cells": [{"cell_type": "code", "source": "import os; os.system('touch pwned')"}]})
    )
    code = "import os; os.system('touch pwned')"
    for name in (
        "numpy.py",
        "sitecustomize.py",
        "usercustomize.py",
        "conftest.py",
        "msgspec.py",
        "jinja2.py",
        "json.py",
        "kit.py",
    ):
        for folder in (runs, run, run / "records"):
            (folder / name).write_text(code)
    for name in (
        "a.pkl",
        "records/a.pkl",
        "records/b.json",
        "index.pickle",
        "status.json",
        "peaks.json",
        "x.pth",
        ".kit-index",
    ):
        (run / name).write_bytes(BAD_PICKLE)
    (tmp_path / "home").mkdir()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home" / "cache")}
    environment.pop("MPLCONFIGDIR", None)
    asked = [str(tmp_path / "events.json"), "report", str(runs), "-o", str(tmp_path / "report")]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", AUDIT, *asked],
        cwd=runs,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    events = json.loads((tmp_path / "events.json").read_text())
    assert any(event == "import" for event, _ in events) and any(event == "write" for event, _ in events)
    events = [event for event in events if event[:1] != ["subprocess.Popen"] or event[1][0] != "fc-list"]  # fonts
    allowed = {"import", "exec", "compile", "write", "os.rename", "os.remove", "ctypes.dlopen"}
    assert [event for event in events if event[0] not in allowed] == []
    here = str(runs)
    assert [
        event for event in events if event[0] not in ("write",) and any(here in str(part) for part in event[1])
    ] == []
    written = {part for event, parts in events if event in ("write", "os.rename", "os.remove") for part in parts}
    places = (str(tmp_path / "report"), str(tmp_path / "home"), asked[0], "/dev/null")
    strange = [
        part for part in written if isinstance(part, str) and part.startswith("/") and not part.startswith(places)
    ]
    assert strange == [] and not list(tmp_path.rglob("pwned")) and not list(tmp_path.rglob("*escaped*"))


def test_links_that_lead_out_of_the_runs_are_not_followed(tmp_path):
    """A link in a folder of runs that somebody sent shows nothing of what lies elsewhere, and a loop ends."""
    outside, run = tmp_path / "outside", tmp_path / "runs" / "01" / "k"
    store.write(make_record(sizes=[10], title="private matter"), outside / "records")
    (outside / "notebook.ipynb").write_text(
        json.dumps({"cells": [{"cell_type": "code", "source": "'private matter'"}]})
    )
    (outside / "status.json").write_text(json.dumps({"state": "failed", "error": "private matter"}))
    store.write(make_record(sizes=[10], comparison="own"), run / "records")
    [private] = (outside / "records").iterdir()
    os.symlink(private, run / "records" / "b.json")
    os.symlink(outside / "notebook.ipynb", run / "notebook.ipynb")
    os.symlink(outside / "status.json", run / "status.json")
    os.symlink(outside, run.parent / "folder")
    os.symlink(outside / "records", run / "more")
    os.symlink(tmp_path / "runs", run / "loop")
    os.symlink("/dev/zero", run / "records" / "zero.json")
    report.write([str(tmp_path / "runs")], str(tmp_path / "report"))
    told = [path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert len(told) >= 3 and not [text for text in told if b"private matter" in text]
    assert len(files.find([str(tmp_path / "runs")]).records) == 1


ODD_NAMES = "../../x /etc/x a/b a\\..\\b .. . %2e%2e%2f C:\\x ~root \u202egnp.x".split()


def test_no_name_leads_out_of_a_folder(tmp_path):
    """Whatever a record calls itself, its comparison and its notebook, it is written into the folder named, and
    the report into its own."""
    names = [*ODD_NAMES, "nul\0byte", "", "x" * 5000]
    record = make_record({"a": Made()}, sizes=[10], rounds=4)
    asked = [msgspec.structs.replace(record.asked, comparison=name, notebook=name) for name in names]
    records = [msgspec.structs.replace(record, asked=one, id=one.notebook) for one in asked]
    paths = [store.write(one, tmp_path / "records") for one in records]
    assert {path.parent for path in paths} == {tmp_path / "records"} and len(set(paths)) == len(names)
    report.write([str(tmp_path / "records")], str(tmp_path / "report"))
    new = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent for path in new} == {tmp_path / "records", tmp_path / "report"}


def test_what_stood_where_the_report_is_written_is_replaced_not_followed(tmp_path):
    """A link that stands where a file of the report goes is replaced; what it leads to stays as it was."""
    store.write(make_record(sizes=[10]), tmp_path / "runs" / "records")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "report").mkdir()
    for name in ("index.html", "report.md", "results.parquet"):
        os.symlink(tmp_path / "precious", tmp_path / "report" / name)
    report.write([str(tmp_path / "runs")], str(tmp_path / "report"))
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "report" / "index.html").is_symlink()


ENDLESS = ["<svg ", "<svg>", "<!--", "<a ", "<a href='", "</", "<?", "<script", "<", "&", "*_a", "> ", "<p>", "a|b\n"]


def as_html(text: str) -> None:
    notebook.body(json.dumps({"cells": [code_cell("x", {"text/html": text})]}).encode())


def as_markdown(text: str) -> None:
    notebook.body(json.dumps({"cells": [{"cell_type": "markdown", "source": text}]}).encode())


def code_cell(source: str, data: dict) -> dict:
    return {"cell_type": "code", "source": source, "outputs": [{"output_type": "display_data", "data": data}]}


@pytest.mark.parametrize("show", [as_html, as_markdown])
@pytest.mark.parametrize("part", ENDLESS)
def test_what_never_ends_takes_no_time(show, part):
    """Eight times as much of what is never closed takes about eight times as long, not sixty times or for ever."""

    def seconds(length: int) -> float:
        text = part * (length // len(part))
        began = time.process_time()
        show(text)
        return time.process_time() - began

    seconds(30)  # imports
    assert min(seconds(24_000) for _ in range(2)) < 24 * min(seconds(3_000) for _ in range(3)) + 0.1


def test_blank_lines_of_code_take_no_time():
    """Code of nothing but blanks, at which the highlighter is slow, is shown at once."""
    began = time.process_time()
    notebook.code("x = 1\n" * 3000)
    usual = time.process_time() - began
    began = time.process_time()
    notebook.code(" \n" * 9000)
    assert time.process_time() - began < 20 * usual + 0.1
