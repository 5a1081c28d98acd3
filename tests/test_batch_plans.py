"""Plans: grids, what is selected from them, what wins over them, and what is refused."""

import pytest
from batch_project import write_notebook

from kit.batch import plans
from kit.errors import UserError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks."""
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb", parameters="rows: int = 10\nlr: float = 0.1\nby: str = 'a'"
    )
    write_notebook(tmp_path / "notebooks" / "02_second.ipynb", parameters="rows: int = 10")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(project, text: str) -> str:
    """Write a plan and return its path."""
    path = project / "plan.toml"
    path.write_text(text)
    return str(path)


GRID = """
timeout = 100
[[run]]
notebook = "01_first"
timeout = 7.5
[run.parameters]
by = "b"
[run.grid]
rows = [1, 2]
lr = [0.5, 1]
[[run]]
notebook = "02"
"""


def test_a_grid_is_a_product(project):
    """The lists of a grid give one run for each combination, in order, beside the fixed parameters."""
    runs = plans.asked([], [plan(project, GRID)], [], None)
    assert [(run.notebook.name, run.given) for run in runs] == [
        ("01_first", {"by": "b", "rows": 1, "lr": 0.5}),
        ("01_first", {"by": "b", "rows": 1, "lr": 1.0}),
        ("01_first", {"by": "b", "rows": 2, "lr": 0.5}),
        ("01_first", {"by": "b", "rows": 2, "lr": 1.0}),
        ("02_second", {}),
    ]
    assert [run.timeout for run in runs] == [7.5] * 4 + [100]
    assert plans.asked(["01"], [], [], None)[0].timeout == plans.TIMEOUT_S
    assert runs[4].values == {"rows": 10}


def test_the_command_line_wins_over_the_plan(project):
    """`-p` fixes a parameter of the plan or of its grid, and the runs that become equal are one; so does --timeout."""
    runs = plans.asked([], [plan(project, GRID)], ["rows=5"], 3.0)
    assert [run.given for run in runs] == [
        {"by": "b", "rows": 5, "lr": 0.5},
        {"by": "b", "rows": 5, "lr": 1.0},
        {"rows": 5},
    ]
    assert {run.timeout for run in runs} == {3.0}


def test_names_select_from_a_plan(project):
    """A notebook named beside a plan keeps only its runs; one that the plan lacks is a mistake."""
    path = plan(project, GRID)
    assert [run.notebook.name for run in plans.asked(["second"], [path], [], None)] == ["02_second"]
    write_notebook(project / "notebooks" / "03_third.ipynb")
    with pytest.raises(UserError, match="the plan has no run of 03_third; it has 01_first, 02_second"):
        plans.asked(["03"], [path], [], None)


def test_a_plan_may_name_a_notebook_beside_it(project, tmp_path_factory):
    """A path in a plan is meant from the plan's folder, wherever the command is given."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    own = write_notebook(elsewhere / "mine.ipynb")
    (elsewhere / "plan.toml").write_text('[[run]]\nnotebook = "mine.ipynb"')
    assert [run.notebook.path for run in plans.asked([], [str(elsewhere / "plan.toml")], [], None)] == [own]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timeot = 5", "unknown field `timeot`"),
        ('[[run]]\nnotebok = "01"', "unknown field `notebok`"),
        ("[[run]]\n", "missing required field `notebook`"),
        ("", "missing required field `run`"),
        ("rows =", "Invalid value"),
        ('run = ["01_first"]', "Expected `object`, got `str` - at `$.run[0]`"),
        ('[[run]]\nnotebook = "01_frist"', "there is no notebook 01_frist; did you mean '01_first'?"),
        ('[[run]]\nnotebook = "01"\ngrid.rows = 5', "Expected `array`, got `int`"),
        ('[[run]]\nnotebook = "01"\ngrid.rows = []', "Expected `array` of length >= 1"),
        ('[[run]]\nnotebook = "01"\ngrid.rows = [1]\nparameters.rows = 1', "under both parameters and grid"),
        ('[[run]]\nnotebook = "01"\nparameters = 5', "`$.run[0].parameters`"),
        ("timeout = true", "got `bool` - at `$.timeout`"),
        ("timeout = 0", "Expected `float` > 0.0 - at `$.timeout`"),
        ('[[run]]\nnotebook = "01"\nparameters.lr = "1e-3"', "lr is float, and got '1e-3'"),
        ('[[run]]\nnotebook = "01"\ngrid.rows = [1, "08"]', "rows is int, and got '08'"),
        ('[[run]]\nnotebook = "01"\nparameters.row = 1', "no parameter row; did you mean 'rows'?"),
    ],
)
def test_a_faulty_plan_is_refused(project, text, complaint):
    """Whatever a plan holds that can't be meant is said before anything runs, with what could be."""
    with pytest.raises(UserError) as refused:
        plans.asked([], [plan(project, text)], [], None)
    assert complaint in str(refused.value)


def test_a_value_may_hold_an_equals_sign(project):
    """Only the first `=` parts name and value."""
    assert plans.asked(["01"], [], ["by=a=b"], None)[0].given == {"by": "a=b"}


@pytest.mark.parametrize("name", ["first", "smoke", "quick", "full"])
def test_the_plans_of_the_kit_are_whole(name):
    """Each shipped plan names notebooks that exist and parameters that they take."""
    assert plans.asked([], [name], [], None)
