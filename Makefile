# Each target sets up what it needs in .venv. Outside this folder grow uv's download cache and, as root with `make qemu`,
# Debian's packages of QEMU 7.2; whatever draws or runs notebooks makes matplotlib's and IPython's usual folders.
PY := .venv/bin/python
UV := .venv/bin/uv
SET_UP := .venv/.set-up
# A Python built with profile-guided optimisation runs everything here 1.2 to 1.35 times as fast. Debian's, Ubuntu's and
# Fedora's own are; pyenv's and one's own only with --enable-optimizations. Not Debian 12's 3.11.2: on its asyncio a real
# source writes more than its peer has read, and completes where later ones wait (tests/live/test_same_story.py).
PGO := import ensurepip, sys, sysconfig; \
  optimised = sys.prefix == "/usr" or "--enable-optimizations" in sysconfig.get_config_var("CONFIG_ARGS"); \
  sys.exit(sys.version_info < (3, 11, 4) or not optimised)
LITE := .venv/share/jupyter/labextensions/@jupyterlite# the kernel of `make site`: JupyterLab itself can't load it

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
.DEFAULT_GOAL := help

$(SET_UP): requirements.lock pyproject.toml
	@test -x $(PY) || { for python in python3 /usr/bin/python3; do $$python -c '$(PGO)' 2>/dev/null && break; python=python3; done; \
	  $$python -m venv .venv; }
	@test -x $(UV) || $(PY) -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@echo "setting up .venv (about half a minute, once)" >&2
	@$(UV) pip install --quiet --python .venv --require-hashes -r requirements.lock
	@$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation -e .
	@if test -d $(LITE); then rm -rf .venv/share/jupyterlite && mkdir -p .venv/share/jupyterlite && mv $(LITE) .venv/share/jupyterlite; fi
	@touch $@

compare: $(SET_UP) ## v1 against v2 in every scenario: table here, pictures and traces in build/compare/
	@$(PY) -m simlib compare --out build/compare

results: compare ## the picture and the table that are committed
	@mkdir -p data/results && cp build/compare/outcomes.svg build/compare/table.csv data/results/
	@for p in v1 v2; do cp build/compare/charts/device_only_at_source.$$p.7.2-7.2.naive.svg data/results/device_only_at_source.$$p.svg; done
	@$(PY) -m simlib explore --out data/results

qemu: ## real QEMUs for tests and `simlib qemu`: 7.2 installed, 10.0 unpacked to build/qemu (Debian 12); VERSIONS="5.2 11.1" too
	@data/profiles/get-qemu build/qemu $(VERSIONS)

qemu-check: $(SET_UP) ## the simulated v1 against those, three times each: data/results/qemu-check.txt, data/captures
	@$(PY) -m simlib qemu check --protocol v1 --protocol v2 --jobs 4 --out data/results/qemu-check.txt --captures data/captures

qemu-versions: $(SET_UP) ## every scenario on QEMU 5.2 and 11.1, which the simulator was not written against: data/results/qemu-versions.txt
	@$(PY) -m simlib qemu check --qemu 5.2 --qemu 11.1 --qemu '5.2>7.2' --qemu '7.2>5.2' --qemu '7.2>11.1' --qemu '11.1>7.2' \
	  --repeats 1 --jobs 4 --out data/results/qemu-versions.txt

qemu-random: $(SET_UP) ## situations that nobody wrote down, on all QEMUs that are here: FIRST=1 COUNT=50
	@$(PY) -m tests.real_qemu.situations $(or $(FIRST),1) $(or $(COUNT),50)

pairs: $(SET_UP) ## every pair of faults over every kind of v2 model: data/results/pairs.md (two hours)
	@$(PY) -m tests.explore.pairs

campaign: $(SET_UP) ## random faults under v2, with a deadline: FIRST=1 COUNT=10000, ON=sockets
	@$(PY) -m tests.world.campaign $(or $(FIRST),1) $(or $(COUNT),10000) $(or $(ON),world)

mutants: $(SET_UP) ## changes of the v2 engine that a test must notice: data/results/mutants.md; COUNT=100 SEED=1 (an hour)
	@$(PY) -m tests.mutation $(or $(COUNT),100) $(or $(SEED),1)

claims: $(SET_UP) ## what became of each claim of 2023: data/results/claims.md, and README's summary
	@$(PY) -m simlib claims --out data/results/claims.md --readme README.md

lab: $(SET_UP) ## open the notebooks in JupyterLab
	@.venv/bin/jupyter lab notebooks --ServerApp.kernel_websocket_connection_class=simlib.study.server.Prompt $(if $(filter 0,$(shell id -u)),--allow-root)

test: $(SET_UP) ## the tests that a newcomer runs, under ten minutes
	@$(PY) -m pytest -q -n 2 -m "not slow"

test-all: $(SET_UP) ## the slow ones too
	@$(PY) -m pytest -q -n 2

check: $(SET_UP) ## ruff and mypy --strict
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench: $(SET_UP) ## how close to the limit: ratios against anchors in one run; PARTS="clocks search" for some of them
	@$(PY) -m tests.bench $(PARTS)

bench-results: $(SET_UP) ## the same, and data/results/bench.md
	@$(PY) -m tests.bench --results

times: $(SET_UP) ## real sockets against the simulated clock, at 0 to 100 ms round trip, and among intruders
	@$(PY) tests/times.py && $(PY) -m tests.live.test_strangers

agreement: $(SET_UP) ## real sockets and TLS tell the world's stories: TIMES=n in a row, until one does not
	@$(PY) -m tests.live.agreement $(or $(TIMES),1)

million: $(SET_UP) ## a sweep of a million rows, killed five times, and again on Dask: data/results/million.md (an hour and a half)
	@$(PY) -m tests.study.million

oracles: $(SET_UP) ## closed forms against a million runs each: data/results/oracles.md (half an hour)
	@$(PY) -m tests.study.oracles

fuzz: $(SET_UP) ## look for bytes that break a side or a parser: MINUTES=n for each of TARGETS
	@$(PY) -m tests.fuzz --minutes $(or $(MINUTES),1) $(TARGETS)

notebooks: $(SET_UP) ## rebuild notebooks/*.ipynb from their text twins
	@$(PY) notebooks/build.py

slides: $(SET_UP) ## the design review as one page and as a PDF, from its text: build/slides/review.html, .pdf
	@$(PY) notebooks/slides.py

site: $(SET_UP) ## the lab as a web site that needs no server of ours: build/site (wants npm; half a minute)
	@$(PY) notebooks/lite/build.py build/site

lock: $(SET_UP) ## resolve requirements.lock anew
	@$(UV) pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --group site --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' pyproject.toml build.in -o requirements.lock
	@$(UV) pip compile --quiet --python-version 3.14 --python-platform wasm32-pyodide2024 --only-binary :all: \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-package widgetsnbextension \
	  --no-emit-package jupyterlab-widgets --custom-compile-command 'make lock' \
	  notebooks/lite/browser.in -o notebooks/lite/browser.lock

clean: ## remove .venv and build/
	@rm -rf .venv build

.PHONY: help compare results qemu qemu-check qemu-versions qemu-random pairs campaign mutants claims lab test test-all check bench bench-results times agreement million oracles fuzz notebooks slides site lock clean
