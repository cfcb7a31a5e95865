# make demo: a first result. make test: the whole suite. Both set up .venv when it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
READY := $(VENV)/.ready

.PHONY: demo test lab check format study gallery bench clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up, run the JunD study on simulated data, say where the report is"
	@echo "make test    the whole test suite, two files at a time (WORKERS=2)"
	@echo "make lab     JupyterLab on the notebooks"
	@echo "make check   format, lint, notebook hygiene"
	@echo "make study   every configuration of the JunD study as a sweep (DATASET=demo|chr20, SEEDS=0..2)"
	@echo "make gallery every notebook run on simulated data: reports, pictures and an index in gallery/ (ONLY=02 for one)"
	@echo "make bench   benchmarks against other tools, as ratios taken in one run"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "nbgenomics needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Say: make PYTHON=python3.11 ..."; exit 1; }
	@echo "setting up $(VENV) (once; TensorFlow is a download of about 300 MB)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV) || { echo "no virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[cpu,test]"
	@touch $@

demo: $(READY)
	@$(BIN)/nbgenomics run notebooks/02_jund.ipynb -p dataset demo

# in the order of folders: the browser's and the notebooks' files take longest and come first
test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lab: $(READY)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/jupyter lab --notebook-dir=. notebooks/00_start_here.ipynb

check: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/python -m pytest -q tests/test_project.py

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

DATASET ?= demo
SEEDS ?= 0..2
SWEEP = $(BIN)/nbgenomics sweep notebooks/02_jund.ipynb -p dataset $(DATASET) -p control false --run-dir runs/jund-$(DATASET)

study: $(READY)
	$(SWEEP) --grid inputs=sequence order=1,2,3 input_dropout=0,0.2 seed=$(SEEDS)
ifneq ($(DATASET),chr20)
	$(SWEEP) --grid inputs=dnase normalize=none,tpm,zlog flip=true,false seed=$(SEEDS)
	$(SWEEP) --grid inputs=joint normalize=zlog order=3 seed=$(SEEDS)
endif
	$(BIN)/nbgenomics run notebooks/08_compare_runs.ipynb -p runs_dir runs/jund-$(DATASET)

gallery: $(READY)
	@$(BIN)/python gallery/make.py --only "$(ONLY)"

bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache
