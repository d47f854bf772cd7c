# `make run` and `make test` set up what they need; each works first, alone, from a clean clone.
# What is needed beforehand: make, Python 3.11 or newer with its venv module, a C++ compiler.
#
#   make run          a long talk with the model that comes with the package, cold, then in a second
#                     process warm from disk; PROMPT="..." is what is asked
#   make test         check the code and run the tests
#   make test-long    the same tests at full scale, and other people's clients at a server
#   make check        formatting, lint, types, import contracts
#   make bench        measure; PEERS=FOLDER with llama.cpp's binaries compares with those as well
#   make setup        only the environment that `make run` uses
#   make lock         write the requirement files anew (needs uv)
#   make clean        remove everything made here; the compiled llama.cpp is kept elsewhere, see
#                     scripts/build_llama.py
#
# make PYTHON=python3.12 ... chooses the interpreter, CC, CXX, CFLAGS, CXXFLAGS and CMAKE_ARGS in the
# environment the way llama.cpp is compiled.

PYTHON ?=
SCALE ?= ci
# Of one test, and a hang is found by it; thousands of examples take longer.
TEST_SECONDS ?= 300
PROMPT ?= What is the capital of France?

VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/tools
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --quiet --require-hashes --requirement
SCHEMA_SUITE := .build/json-schema-test-suite

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
# Two pips must not write into one environment at once.
.NOTPARALLEL:
.PHONY: setup run test test-long check bench lock clean llama test-setup tools-setup

run: export DEMO_PROMPT = $(PROMPT)
run: setup
	@$(BIN)/python scripts/demo.py .build/demo "$$DEMO_PROMPT"

test: check
	SAMOVAR_TEST_SCALE=$(SCALE) $(BIN)/python -m pytest --timeout $(TEST_SECONDS)

test-long: SCALE = full
test-long: TEST_SECONDS = 7200
test-long: tools-setup test

check: test-setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=scripts $(BIN)/mypy scripts
	$(BIN)/lint-imports

# On a model made under .build; what the figures are worth depends on what else the machine does.
bench: setup $(STAMPS)/models
	$(BIN)/python -m benchmarks.all $(if $(PEERS),--peers "$(PEERS)")

setup: $(STAMPS)/package llama

test-setup: setup $(STAMPS)/models $(STAMPS)/test $(STAMPS)/clients $(SCHEMA_SUITE)/complete

tools-setup: $(STAMPS)/tools-js

# An environment does not survive being moved, nor the removal of its Python.
ifneq ($(shell test -x $(BIN)/python && cat $(STAMPS)/venv 2>/dev/null),$(CURDIR))
.PHONY: $(STAMPS)/venv
endif
$(STAMPS)/venv:
	@python=$$(sh scripts/find_python.sh "$(PYTHON)") \
	    && "$$python" scripts/build_llama.py --check \
	    && echo "making $(VENV) with $$python" \
	    && "$$python" -m venv --clear $(VENV) \
	    && mkdir $(STAMPS) && printf '%s' "$(CURDIR)" > $@

$(STAMPS)/%: requirements/%.txt $(STAMPS)/venv
	@echo "installing $<"
	@$(INSTALL) $<
	@touch $@

# Other people's clients, in an environment of their own; Node.js and npm are among them.
$(STAMPS)/tools: requirements/tools.txt $(STAMPS)/venv
	@echo "installing $<"
	@$(BIN)/python -m venv --clear $(TOOLS)
	@$(INSTALL:$(BIN)/%=$(TOOLS)/bin/%) $<
	@touch $@

$(STAMPS)/tools-js: tests/clients/package.json tests/clients/package-lock.json $(STAMPS)/tools
	@echo "installing $<"
	@cp tests/clients/package.json tests/clients/package-lock.json $(TOOLS)
	@PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" npm ci --prefix $(TOOLS) --silent --ignore-scripts --no-audit --no-fund
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/run
	@echo "installing samovar in place"
	@$(PIP) install --quiet --no-deps --no-index --no-build-isolation --editable .
	@touch $@

# Not a stamp: the CPU and the compiler decide whether the installed library is the right one.
llama: $(STAMPS)/venv
	@$(BIN)/python scripts/build_llama.py --install

# The official test suite of JSON Schema; fetched here, so that no test needs a network.
$(SCHEMA_SUITE)/complete: scripts/fetch_schema_suite.py requirements/test.txt | $(STAMPS)/suite
	@echo "fetching the test suite of JSON Schema"
	@$(BIN)/python $< $(@D)
	@touch $@

lock:
	cd requirements && for name in build run models test suite clients tools; do \
	    uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	        --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
	        --output-file $$name.txt $$name.in || exit 1; \
	done

clean:
	rm -rf $(VENV) .build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
