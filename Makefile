# make demo    simulate a survey (or DATA=file.h5), pretrain on it, evaluate, print the numbers
# make test    run the tests, two files at a time (JOBS=8 for more): every notebook, and tests/ (test-slow: the others, those that kill and restart processes many times, or read the whole site)
# make docs    build the site into _docs/
# make readme  write README.md from nbs/index.ipynb
# make figures make the figures that notebooks store sharp and small
# make gpu-check  a dozen checks of a GPU, in under ten minutes: one JSON and a table (without one, it says what it could not check)
# make web     bundle the scripts of the pages that astromask writes (needs npm)
# make clean   remove what make made, but not runs/
# Everything is installed in .venv, made when need be, and nowhere else.

PYTHON  ?= python3
DATA     =
MINUTES  = 5
OUT      =
SEED     = 0
JOBS     = 2
BIN      = .venv/bin

.PHONY: demo test test-slow docs readme figures web gpu-check env install clean

demo: env
	@$(BIN)/python tools/demo.py --data "$(DATA)" --minutes "$(MINUTES)" --out "$(OUT)" --seed "$(SEED)"

test: env
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 tests

test-slow: env
	$(BIN)/python -m pytest -q -m slow -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 tests

docs: env
	$(BIN)/python tools/docs.py

figures: env
	$(BIN)/python tools/figures.py

gpu-check: env
	$(BIN)/python -W ignore tools/gpu_check.py

web: env
	$(BIN)/python tools/web.py

readme: env
	$(BIN)/python tools/readme.py

# what was installed is kept beside it: files that only look newer (nbdev-export writes pyproject.toml) install nothing
NEEDED = settings.ini pyproject.toml setup.py constraints.txt

env:
	@cat $(NEEDED) | cmp -s - .venv/.installed || $(MAKE) --no-print-directory install

install:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3,11))' || { echo "AstroMASK needs Python 3.11 or newer, and $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=python3.12, say" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@cat $(NEEDED) > .venv/.installed

clean:
	rm -rf .venv _proc _docs build dist *.egg-info .pytest_cache .hypothesis
