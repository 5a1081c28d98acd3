"""Parameters: what a notebook's parameters cell says, and which values it takes."""

from pathlib import Path
from typing import Any, Literal

import pytest
from batch_project import write_notebook

from kit.batch import notebooks, parameters
from kit.errors import UserError


def of(tmp_path: Path, cell: str):
    """Return the notebook whose parameters cell is `cell`."""
    return notebooks.read(write_notebook(tmp_path / "n.ipynb", "print(1)", parameters=cell))


def test_every_kind_of_parameter_is_read(tmp_path):
    """Each annotated literal is a parameter with its type as written, its default and its trailing comment."""
    found = parameters.read(
        of(
            tmp_path,
            "from typing import Literal\n"
            "rows: int = 1_000  # rows to read, with a = sign\n"
            "lr: float = 1\n"
            "threads: int | None = None  # all if None\n"
            "engine: \"Literal['a=1', 'b # no comment']\" = 'b # no comment'  # which\n"
            "sizes: list[int] = [\n    1,\n    2,\n]  # rows\n"
            "flag: 'bool' = False\n"
            "name: typing.Optional[str] = 'x=y'",
        )
    )
    assert [(p.name, p.type, p.default, p.comment) for p in found] == [
        ("rows", "int", 1000, "rows to read, with a = sign"),
        ("lr", "float", 1.0, ""),
        ("threads", "int | None", None, "all if None"),
        ("engine", "Literal['a=1', 'b # no comment']", "b # no comment", "which"),
        ("sizes", "list[int]", [1, 2], "rows"),
        ("flag", "bool", False, ""),
        ("name", "typing.Optional[str]", "x=y", ""),
    ]
    assert isinstance(found[1].default, float) and found[-1].kind == str | None


TAKEN = """'''Docstring.'''
import os, datetime
# a comment
%time x = 1
files = !ls
rows = 10**6
name = f"run {os.getpid()}"
options = {"depth": 3}
span = (1, 2)
day = datetime.date(2026, 11, 29)
where: Path = "x"
batch = rows // 10
first = second = 0
for n in range(3):
    pass
free = None
kinds = [1, "x"]
"""


def test_any_cell_of_papermills_is_taken(tmp_path):
    """Computed values, dicts, magics and statements are no mistakes: what can be set is settable, the rest is listed as
    what can't."""
    notebook = of(tmp_path, TAKEN)
    found = {p.name: p for p in parameters.read(notebook)}
    assert list(found) == "files rows name options span day where batch free kinds".split()
    assert [name for name, p in found.items() if p.kind is None] == ["span", "where"]
    values, every = parameters.checked(
        notebook, {"name": "mine", "options": '{"depth": 4}', "free": "7", "kinds": "[2, 'y']"}, {}
    )
    assert values == {"name": "mine", "options": {"depth": 4}, "free": 7, "kinds": [2, "y"]}
    assert every["rows"] == "10 ** 6"
    with pytest.raises(UserError, match=r"n: where \(Path\) can't be set; give it a type of plain literals"):
        parameters.checked(notebook, {"where": "y"}, {})


def test_what_would_keep_a_stale_default_is_refused(tmp_path):
    """A value that is computed in the cell keeps its default when another is set from outside: that is told."""
    notebook = of(tmp_path, TAKEN)
    with pytest.raises(UserError, match=r"batch = rows // 10 is computed from rows and would keep its default; set"):
        parameters.checked(notebook, {"rows": "100"}, {})
    assert parameters.checked(notebook, {"rows": "100", "batch": "10"}, {})[0] == {"rows": 100, "batch": 10}


def test_a_cell_that_is_no_python_is_refused(tmp_path):
    """What the kernel could not run is told before it starts; comments alone are no parameters."""
    with pytest.raises(UserError, match="its cell tagged `parameters` is not Python"):
        parameters.read(of(tmp_path, "rows = = 1"))
    assert parameters.read(of(tmp_path, "# none yet\n")) == []


def test_two_parameters_cells_are_refused(tmp_path):
    """Which of two cells papermill would set is a guess, so there may be one."""
    notebook = of(tmp_path, "a = 1")
    notebook.document["cells"].append(notebook.document["cells"][0])
    with pytest.raises(UserError, match="2 cells tagged `parameters`"):
        parameters.read(notebook)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(int, "1_000_000", 1_000_000), (int, "1e6", 1_000_000), (int, "-3", -3), (float, "1e-3", 0.001),
     (float, "3", 3.0), (float, "inf", float("inf")), (str, "08", "08"), (str, "none", "none"),
     (str, "'quoted'", "'quoted'"), (str, "[1]", "[1]"), (bool, "True", True), (bool, "false", False),
     (int | None, "none", None), (str | None, "none", None), (str | None, "5", "5"), (int | str, "5", 5),
     (int | str, "5 %", "5 %"), (Literal["1", 2, None], "1", "1"), (Literal["1", 2, None], "2", 2),
     (Literal["1", 2, None], "none", None), (list[int], "[1, 2_000]", [1, 2000]), (list[int], "1,1e3", [1, 1000]),
     (list[int], "7", [7]), (list[int], "[]", []), (list[str], "a, b", ["a", "b"]), (list[str], "1,2", ["1", "2"]),
     (list[str], '["a,b", "c"]', ["a,b", "c"]), (list[float] | None, "0.5", [0.5]),
     (list[float] | None, "none", None), (Any, "nan", "nan")],
)  # fmt: skip
def test_text_is_read_by_the_type(kind, text, value):
    """A value on the command line means what the parameter's type says, never what it looks like."""
    got = parameters.parse(kind, text)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text"),
    [(int, "many"), (int, "1.5"), (int, "true"), (int, ""), (float, "1e-3s"), (bool, "1"), (bool, "yes"),
     (Literal["a", "b"], "c"), (list[int], "1,x"), (int | None, "x"), (dict, "{1, 2}")],
)  # fmt: skip
def test_text_of_another_type_is_refused(kind, text):
    """A text that is no value of the type is never taken as text."""
    with pytest.raises(ValueError):
        parameters.parse(kind, text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, True), (int, 1.0), (int, "08"), (float, "1e-3"), (float, True), (str, 1), (bool, 1), (list[int], [1, "2"]),
     (list[int], 1), (Literal[1], True), (int | None, "none"), (Any, {1, 2})],
)  # fmt: skip
def test_typed_values_are_not_bent(kind, value):
    """A value of a plan fits its type or is refused; text is no number, true is no number, but 1 is a float."""
    assert isinstance(parameters.fit(list[float], [1, 0.5])[0], float)
    with pytest.raises((TypeError, ValueError)):
        parameters.fit(kind, value)


def test_a_mistake_names_what_was_meant(tmp_path):
    """A misspelt name, a wrong value and a notebook without parameters are refused with the remedy."""
    notebook = of(tmp_path, "rows: int = 1_000_000\nlr: float | None = None")
    for given, typed, told in (
        ({"row": "5"}, {}, "n has no parameter row; did you mean 'rows'? Choose from: rows, lr"),
        ({"rows": "many"}, {}, "n: rows is int, and got 'many'; its default is 1_000_000"),
        ({}, {"lr": "1e-3"}, "n: lr is float | None, and got '1e-3'; its default is none"),
    ):
        with pytest.raises(UserError) as refused:
            parameters.checked(notebook, given, typed)
        assert str(refused.value) == told
    bare = notebooks.read(write_notebook(tmp_path / "own.ipynb", "x = 1"))
    assert parameters.checked(bare, {}, {}) == ({}, {})
    with pytest.raises(UserError, match="own takes no parameters, and got x: tag the cell"):
        parameters.checked(bare, {"x": "2"}, {})


def test_a_notebook_may_list_what_it_takes(tmp_path):
    """Patterns of texts and a range of numbers, in its metadata; a variant that stands in its code is known too."""
    notebook = of(tmp_path, "kinds: list[str] = []\nmodel: str = ''\nn: int = 0\nbad: int = 1\nx: int = 1")
    notebook.document["cells"][-1]["source"] = 'comparison.variant("mine", f)'
    choices = {"kinds": ["fast", "slow"], "model": ["*.onnx", "small"], "n": [1, 9], "bad": ["text"], "x": None}
    notebook.document["metadata"] = {"kit": {"choices": choices}}
    good = {"kinds": "slow,mine", "model": "my.onnx", "n": "9", "x": "-5"}
    assert parameters.checked(notebook, good, {})[0] == {"kinds": ["slow", "mine"], "model": "my.onnx", "n": 9, "x": -5}
    for name, text, told in (
        ("kinds", "fast,slw", "n: kinds can't be 'slw'; did you mean 'slow'? Choose from: fast, slow"),
        ("model", "large", "n: model can't be 'large'; choose from: *.onnx, small"),
        ("n", "10", "n: n can't be 10; give a number from 1 to 9"),
        ("bad", "2", "n: bad is int, and got 2; its default is 1"),
    ):
        with pytest.raises(UserError) as refused:
            parameters.checked(notebook, {name: text}, {})
        assert str(refused.value) == told


def test_what_is_shown_can_be_given(tmp_path):
    """A value as it is printed is a value of the parameter."""
    cell = (
        "a: int | None = None\nb: list[str] = ['x, \"y\"', 'z']\nc: bool = True\nd: Literal['p', 'q'] | None = None\n"
    )
    for parameter in parameters.read(of(tmp_path, cell + "e = 0.5\nf: list[float] = [1, 2.5]\ng: dict = {}")):
        assert parameters.parse(parameter.kind, parameters.as_text(parameter.default)) == parameter.default


def test_a_cell_is_never_executed(tmp_path):
    """Reading a notebook's parameters runs nothing of it, neither of its values nor of its types."""
    made = str(tmp_path / "made")
    parameters.read(of(tmp_path, f"x = open({made!r}, 'w')\ny: open({made!r}, 'w') = 1\nz: 'list[open(1)]' = 1"))
    assert not (tmp_path / "made").exists()
