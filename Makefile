# make report   a fresh machine → report/index.html, anew after each run
# make test     the tests, on what they need and nothing else
# make lab      JupyterLab with the notebooks
PYTHON ?= python3
BIN := .venv/bin

.PHONY: report test lab clean

report: .venv/ready
	$(BIN)/kit run --plan quick --report report

test: .venv/ready
	$(BIN)/ruff check kit tests benchmarks
	$(BIN)/pytest

lab: .venv/ready
	$(BIN)/jupyter lab --preferred-dir notebooks

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; got $$($(PYTHON) --version). Give another: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf .venv build *.egg-info
