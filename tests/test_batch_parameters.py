"""Parameters: what a notebook's parameters cell says, and which values it takes."""

from pathlib import Path
from typing import Literal

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
            "name: Optional[str] = 'x=y'",
        )
    )
    assert [(p.name, p.type, p.default, p.comment) for p in found] == [
        ("rows", "int", 1000, "rows to read, with a = sign"),
        ("lr", "float", 1.0, ""),
        ("threads", "int | None", None, "all if None"),
        ("engine", "Literal['a=1', 'b # no comment']", "b # no comment", "which"),
        ("sizes", "list[int]", [1, 2], "rows"),
        ("flag", "bool", False, ""),
        ("name", "Optional[str]", "x=y", ""),
    ]
    assert isinstance(found[1].default, float)


def test_a_users_own_notebook_needs_no_types(tmp_path):
    """Without an annotation, the default says the type; None takes any value."""
    found = parameters.read(of(tmp_path, "a = 1\nb = 0.5\nc = 'x'\nd = True\ne = None\nf = [1, 2]\ng = [1, 'x']"))
    assert [p.type for p in found][:4] == ["int", "float", "str", "bool"]
    assert found[5].type == "list[int]"
    assert parameters.parse(found[4].kind, "7") == 7
    assert parameters.parse(found[6].kind, "[1, 'x']") == [1, "x"]


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        (
            "rows = 100\nbatch = rows // 10",
            "batch = rows // 10 is not a plain literal; a value that is computed here stays",
        ),
        ("rows: int = 10 ** 6", "not a plain literal"),
        ("options = {'a': 1}", "not a plain literal"),
        ("for n in range(3): pass", "is not a parameter"),
        ("a = b = 1", "is not a parameter"),
        ("rows: int", "is not a parameter"),
        ("rows: int = 'many'", "the default of rows, 'many', is not int"),
        ("rows: int = True", "the default of rows, True, is not int"),
        ("rows: ndarray = 1", "has the type `ndarray`, which a parameter can't have"),
        ("rows: 'int |' = 1", "has the type `int |`"),
        ("rows = 1\nrows = 2", "rows is set twice"),
        ("%time rows = 1", "it is not plain Python"),
    ],
)
def test_what_is_no_parameter_is_refused(tmp_path, cell, complaint):
    """A parameters cell that holds anything but plain literals is refused, with the reason."""
    with pytest.raises(UserError) as refused:
        parameters.read(of(tmp_path, cell))
    assert complaint in str(refused.value)


def test_two_parameters_cells_are_refused(tmp_path):
    """Which of two cells papermill would set is a guess, so there may be one."""
    notebook = of(tmp_path, "a = 1")
    notebook.document["cells"].append(notebook.document["cells"][0])
    with pytest.raises(UserError, match="2 cells tagged `parameters`"):
        parameters.read(notebook)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "1_000_000", 1_000_000),
        (int, "1e6", 1_000_000),
        (int, "-3", -3),
        (float, "1e-3", 0.001),
        (float, "3", 3.0),
        (str, "08", "08"),
        (str, "none", "none"),
        (str, "'quoted'", "'quoted'"),
        (bool, "True", True),
        (bool, "false", False),
        (int | None, "none", None),
        (str | None, "none", None),
        (str | None, "5", "5"),
        (int | str, "5", 5),
        (int | str, "5 %", "5 %"),
        (Literal["1", 2, None], "1", "1"),
        (Literal["1", 2, None], "2", 2),
        (Literal["1", 2, None], "none", None),
        (list[int], "[1, 2_000]", [1, 2000]),
        (list[int], "1,1e3", [1, 1000]),
        (list[int], "7", [7]),
        (list[int], "[]", []),
        (list[str], "a, b", ["a", "b"]),
        (list[str], "1,2", ["1", "2"]),
        (list[str], '["a,b", "c"]', ["a,b", "c"]),
        (list[float] | None, "0.5", [0.5]),
        (list[float] | None, "none", None),
    ],
)
def test_text_is_read_by_the_type(kind, text, value):
    """A value on the command line means what the parameter's type says, never what it looks like."""
    got = parameters.parse(kind, text)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "many"),
        (int, "1.5"),
        (int, "true"),
        (int, ""),
        (float, "1e-3s"),
        (bool, "1"),
        (bool, "yes"),
        (Literal["a", "b"], "c"),
        (list[int], "1,x"),
        (int | None, "x"),
    ],
)
def test_text_of_another_type_is_refused(kind, text):
    """A text that is no value of the type is never taken as text."""
    with pytest.raises(parameters.MISFIT):
        parameters.parse(kind, text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, True), (int, 1.0), (int, "08"), (float, "1e-3"), (float, True), (str, 1), (bool, 1), (list[int], [1, "2"]),
     (list[int], 1), (Literal[1], True), (int | None, "none")],
)  # fmt: skip
def test_typed_values_are_not_bent(kind, value):
    """A value of a plan fits its type or is refused; text is no number, true is no number."""
    with pytest.raises(TypeError):
        parameters.fit(kind, value)


def test_a_whole_number_is_a_float_where_one_is_wanted():
    """`lr = 1` in a plan and `lr = 1.0` are the same run."""
    assert isinstance(parameters.fit(float, 1), float)
    assert parameters.fit(list[float], [1, 0.5]) == [1.0, 0.5]


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    """A misspelt parameter names the one that was meant, and all there are."""
    with pytest.raises(UserError) as refused:
        parameters.checked(of(tmp_path, "rows: int = 1\nengine: str = 'x'"), {"row": "5"}, {})
    assert str(refused.value) == "n has no parameter row; did you mean rows? It has: rows, engine"


def test_a_wrong_value_is_refused_with_an_example(tmp_path):
    """A value of the wrong type says what is taken, what was got, and how it could look."""
    with pytest.raises(UserError) as refused:
        parameters.checked(of(tmp_path, "rows: int = 1_000_000"), {"rows": "many"}, {})
    assert str(refused.value) == "n: rows is int, and got 'many'; for example rows=1_000_000"
    with pytest.raises(UserError, match=r"lr is float \| None, and got '1e-3'; for example lr=0.5"):
        parameters.checked(of(tmp_path, "lr: float | None = None"), {}, {"lr": "1e-3"})


def test_a_notebook_without_a_parameters_cell_takes_none(tmp_path):
    """A user's own notebook may have no parameters; setting one is then refused, not ignored."""
    notebook = notebooks.read(write_notebook(tmp_path / "own.ipynb", "x = 1"))
    assert parameters.checked(notebook, {}, {}) == ({}, {})
    with pytest.raises(UserError, match="own takes no parameters, and got x: tag the cell"):
        parameters.checked(notebook, {"x": "2"}, {})


def test_an_example_is_always_a_value(tmp_path):
    """What a message gives as an example can be given."""
    cell = "a: int | None = None\nb: list[str] = ['x']\nc: bool = True\nd: Literal['p', 'q'] | None = None\ne = 0.5"
    for parameter in parameters.read(of(tmp_path, cell)):
        parameters.parse(parameter.kind, parameters.example(parameter))


def test_a_literal_is_never_evaluated(tmp_path):
    """Reading a notebook's parameters runs nothing of it."""
    with pytest.raises(UserError, match="not a plain literal"):
        parameters.read(of(tmp_path, f"x = open({str(tmp_path / 'made')!r}, 'w')"))
    with pytest.raises(UserError, match="a parameter can't have"):
        parameters.read(of(tmp_path, f"x: open({str(tmp_path / 'made')!r}, 'w') = 1"))
    assert not (tmp_path / "made").exists()
