# make report   a fresh machine → report/index.html, written again after each run
# make test     the linter and the tests: those that may share the machine in parallel, then the rest one by one
# make lab      JupyterLab with the notebooks
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
EXTRAS_report := all
EXTRAS_test := test
EXTRAS_lab := all,lab

.PHONY: report test lab clean

report: .venv/ready-report
	$(BIN)/kit run --plan first --report report

test: .venv/ready-test
	$(BIN)/ruff check kit tests benchmarks
	$(BIN)/pytest -n auto --dist worksteal -m "not alone" -rs
	$(BIN)/pytest -m alone -rs

lab: .venv/ready-lab
	$(BIN)/jupyter lab --preferred-dir notebooks

# TORCH_INDEX: where pip finds PyTorch's build for the CPU alone, which saves some gigabytes on Linux without a GPU; see
# pytorch.org for its address.
.venv/ready-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; got $$($(PYTHON) --version). Give another: make PYTHON=python3.12"; exit 2; }
	@echo "installing [$(EXTRAS_$*)] into .venv: some minutes"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@test -z "$(TORCH_INDEX)" || $(PIP) --no-deps --index-url "$(TORCH_INDEX)" torch
	$(PIP) --editable '.[$(EXTRAS_$*)]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info
