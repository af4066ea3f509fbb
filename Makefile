# make demo   install into .venv, start a throw-away daemon, run real jobs, show what they did
# make test   install what the tests need, check style and types, run every test
# make packages   a deb and an RPM in dist/      make man   the manual pages in build/man
# make check  style and types only        make bench  figures, as ratios        make clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml $(shell find queuectl queuectld -name '*.py')

.PHONY: demo test check bench packages man clean

demo: $(VENV)/installed
	./packaging/apt-need gcc libc6-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

# Half of the time is spent waiting, for a machine to boot or for a condition.
test: check
	$(BIN)/pytest -n 2 --no-loadscope-reorder

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python bench/run.py

packages: $(VENV)/installed
	./packaging/apt-need gcc libc6-dev
	$(BIN)/python packaging/build.py

man: $(VENV)/installed
	$(BIN)/python packaging/build.py --man build/man

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "queuectl needs Python 3.11 or newer; say which with: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./packaging/apt-need python3-venv
	$(PYTHON) -m venv $(VENV)

# The demo runs what a user installs: a copy, not this checkout.
$(VENV)/installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check .
	touch $@

# Tests run the installed copy as well, so each change of the sources installs it again.
$(VENV)/dev: $(BIN)/python $(SOURCES)
	./packaging/apt-need gcc libc6-dev strace tmux python3-systemd mmdebstrap systemd-container
	./packaging/apt-need dpkg-dev lintian rpm rpmlint man-db groff mandoc bash zsh fish openssl
	./packaging/apt-need chromium
	./packaging/apt-take prometheus /usr/bin/promtool $(BIN)/promtool
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
