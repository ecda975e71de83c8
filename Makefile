# `make demo` and `make test` need Python 3.11 and make, nothing else.
# TORCH_INDEX=URL takes torch from another package index: https://download.pytorch.org/whl/cpu is the small one without CUDA.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
PINS := setup.cfg pyproject.toml constraints.txt requirements.lock
LOCKED := linux x86_64 3 11
PLATFORM := import platform, sys; print(sys.platform, platform.machine(), *sys.version_info[:2])
DEMO := runs/demo

.PHONY: demo test install clean

demo: $(VENV)/.installed
	$(BIN)/drivesim demo --out $(DEMO)

# Everything that must hold before a change goes in; CI=true adds the tests marked slow.
test: $(VENV)/.installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"
	@if [ "$$CI" = true ]; then echo "$(BIN)/python -m pytest -q -m slow"; $(BIN)/python -m pytest -q -m slow; fi

install: $(VENV)/.installed

# CI installs what requirements.lock holds, by its hashes (tools/lock.py makes it); then there is nothing left to resolve.
# torch goes alone: it is most of the download, and TORCH_INDEX is meant for it and for nothing else.
$(VENV)/.installed: $(PINS)
	@set -e; start=$$(date +%s); echo "installing into $(VENV) (once; some minutes)"; \
	if [ ! -x $(BIN)/python ]; then \
	  for python in python3.11 python3 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	  done; \
	  if [ -z "$$python" ]; then echo "Python 3.11 or later is needed and was not found" >&2; exit 2; fi; \
	  $$python -m venv $(VENV); \
	fi; \
	if [ "$$CI" = true ] && [ "$$($(BIN)/python -c '$(PLATFORM)')" = "$(LOCKED)" ]; then \
	  echo "by the hashes of requirements.lock"; \
	  $(BIN)/python -m pip --disable-pip-version-check --quiet install \
	    --require-hashes --no-deps --only-binary :all: -r requirements.lock; \
	fi; \
	$(PIP) setuptools wheel; \
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0; \
	$(PIP) --no-build-isolation -e .; \
	touch $@; echo "installed in $$(( $$(date +%s) - start )) s"

$(VENV)/.installed-test: $(VENV)/.installed
	@set -e; start=$$(date +%s); echo "adding what the tests need"; \
	$(PIP) --no-build-isolation -e '.[test]'; \
	touch $@; echo "installed in $$(( $$(date +%s) - start )) s"

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find drivesim tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
