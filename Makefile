# Every target sets up what it needs: a newcomer types `make demo` in an empty clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests run in two processes; one computing thread each keeps them from fighting over cores.
# What shares a costly fixture runs in one of them, in the order of the files: see tests/conftest.py.
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg
TEST_ARGS := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-fast test-newest test-oldest constraints strace dcmtk orthanc lint types wheel sbom bench bench-accuracy bench-speed bench-reliability clean

# Versions that passed the tests; PINS= takes the newest that pyproject.toml allows instead.
PINS := constraints.txt
CONSTRAIN = $(if $(PINS),--constraint $(PINS))
NEWEST := build/newest
OLDEST := build/oldest
# Its newest packages are those that every later Python can install too.
OLDEST_PYTHON := 3.11

$(VENV)/.ready: pyproject.toml $(PINS)
	@echo "Setting up $(VENV): about five minutes and 7 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade $(CONSTRAIN) "pip>=25.3" setuptools
	$(BIN)/python -m pip install --quiet $(CONSTRAIN) $(CONSTRAIN:--constraint%=--build-constraint%) \
	  --editable ".[all]" --group dev
	touch $@

demo: $(VENV)/.ready
	$(BIN)/wsseg demo --out demo-out

test: lint types strace dcmtk orthanc $(VENV)/.ready
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_ARGS) -m "not gpu"
	$(MAKE) wheel

# What to run while working: no slow tests, no checks of array shapes in train, which take half of
# its time. It ends with the tests that took long enough to be marked slow.
test-fast: $(VENV)/.ready
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_ARGS) -m "not gpu and not slow" \
	  --jaxtyping-packages= --durations 10 --durations-min 1

# The tests in an environment of its own, of the newest packages.
test-newest:
	rm -rf $(NEWEST)
	$(MAKE) test VENV=$(NEWEST) PINS=

# The tests in an environment of its own, of the oldest packages that pyproject.toml allows. What
# these need is as new as they allow, and may warn of them: warnings are no errors here.
test-oldest: strace dcmtk orthanc
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
	  --editable ".[all]" --group test
	$(TEST_ENV) $(OLDEST)/bin/python -m pytest $(TEST_ARGS) -m "not gpu" -W default

# The newest packages become the pinned ones if the tests pass with them.
constraints:
	@$(PYTHON) -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$(OLDEST_PYTHON)')" \
	  || { echo "make constraints PYTHON=python$(OLDEST_PYTHON): see CONTRIBUTING.md"; exit 1; }
	$(MAKE) test-newest
	$(NEWEST)/bin/python -m pip freeze --all --exclude-editable > build/constraints.txt
	mv build/constraints.txt constraints.txt

# The tests watch with it what the commands do beside their job.
strace:
	@command -v strace > /dev/null || { apt-get update -qq && apt-get install -y -qq strace; } \
	  || { echo "make test needs strace: sudo apt-get install strace"; exit 1; }

# The tests read DICOM results with its dsrdump.
dcmtk:
	@command -v dsrdump > /dev/null || { apt-get update -qq && apt-get install -y -qq dcmtk; } \
	  || { echo "make test needs dcmtk: sudo apt-get install dcmtk"; exit 1; }

# The tests send images to it and back. As installed it would run for all addresses, at once and
# from every start of the machine; the tests start it themselves, in a network of its own.
POLICY := /usr/sbin/policy-rc.d
orthanc:
	@test -f /usr/share/orthanc/plugins/libOrthancDicomWeb.so || { \
	  test -e $(POLICY) || { trap "rm -f $(POLICY)" EXIT && printf '#!/bin/sh\nexit 101\n' \
	    > $(POLICY) && chmod +x $(POLICY); } && apt-get update -qq \
	  && apt-get install -y -qq orthanc orthanc-dicomweb && update-rc.d orthanc disable; } \
	  || { echo "make test needs Orthanc: sudo apt-get install orthanc orthanc-dicomweb"; exit 1; }

# The linter of imports finds packages by folders, as type checkers do: through the links.
lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYTHONPATH=.typing $(BIN)/lint-imports

types: $(VENV)/.ready
	$(BIN)/mypy

# What a user installs: the wheel alone, without torch, in an environment of its own.
wheel: $(VENV)/.ready
	rm -rf build/wheel build/installed
	$(if $(PINS),PIP_CONSTRAINT=$(abspath $(PINS))) \
	  $(BIN)/python -m build --quiet --wheel --outdir build/wheel .
	$(PYTHON) -m venv build/installed
	build/installed/bin/python -m pip install --quiet $(CONSTRAIN) build/wheel/*.whl
	cd build && installed/bin/wsseg --help > /dev/null && installed/bin/wsseg-infer --help > /dev/null
	cd build && installed/bin/wsseg doctor

# What is installed, as CycloneDX lists: by the wheel alone, and by everything with the tools of
# development. The program that writes them has an environment of its own, and is in neither list.
SBOM := build/sbom
SBOM_TOOL := cyclonedx-bom==7.5.0
sbom: wheel
	rm -rf $(SBOM) build/sbom-tool
	mkdir -p $(SBOM)
	$(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/python -m pip install --quiet "$(SBOM_TOOL)"
	for each in base:build/installed all:$(VENV); do \
	  build/sbom-tool/bin/cyclonedx-py environment --pyproject pyproject.toml --short-PURLs \
	    --output-reproducible --output-file "$(SBOM)/$${each%%:*}.cdx.json" \
	    "$${each#*:}/bin/python" || exit 1; \
	done

bench: $(VENV)/.ready
	$(BIN)/python -m bench.reading

# Kills, full disks, bad files, failing engines and a long run: the table of docs/reliability.md.
bench-reliability: $(VENV)/.ready
	$(BIN)/python -m bench.reliability $(ARGS)

# Accuracy against full supervision on the data sets in DATA: see docs/results. One run a core, each
# 12 minutes or so; every run is kept, and a rerun goes on where the last one stopped.
DATA ?= data
WEIGHTS ?= imagenet
bench-accuracy: $(VENV)/.ready
	$(BIN)/python -m bench.accuracy --data $(DATA) --weights $(WEIGHTS) \
	  --at-once $(shell nproc) --threads 1 $(ARGS)

# Engines, whole commands, memory and peers: see docs/results. Slices are made from the scans in
# DATA, if that folder is there, else from the brain template that nilearn ships. Every peer gets an
# environment of its own under build/peers, 6 GB each; PEERS=--share-torch lends them this one's
# packages instead. Hours with everything; ARGS="--scenarios engines,whole" takes a part, and
# ARGS=--quick only proves that it runs.
PEERS ?=
bench-speed: $(VENV)/.ready
	$(BIN)/python -m bench.speed.peers.environments build/peers $(PEERS)
	$(BIN)/python -m bench.speed $(if $(wildcard $(DATA)),--data $(DATA)) $(ARGS)

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info
