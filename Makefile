# make run: install into .venv, then derive, certify, time and train xIELU; open runs/demo/report.html
# make test: install into .venv, then lint, types, tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test install
install: .venv/installed

# byte code is written as modules are first imported, whatever the shell says; pip would compile all
# files one after the other
unexport PYTHONDONTWRITEBYTECODE
.venv/installed: pyproject.toml constraints.txt
	@echo "installing into .venv (about 1.5 GB, a few minutes)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[demo,test]'
	touch $@

run: install
	$(BIN)/integrand demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/python -m pytest -n 2 --dist worksteal
