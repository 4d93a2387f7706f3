# The same targets that .ci/run calls. Checks run with the tools that the group `dev` adds to what running needs.
RUN = uv run --group dev

.PHONY: check lint format types imports test test-lowest test-cluster test-images coverage test-processes build docs pages

check: lint docs types imports test

lint:
	$(RUN) ruff format --check .
	$(RUN) ruff check .

format:
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

types:
	$(RUN) mypy

imports:
	$(RUN) lint-imports

test:
	$(RUN) pytest

# What unit and contract tests execute, branches too, in the processes that they start as well; pyproject.toml has the
# floor. Measuring takes about a fifth more processor time, so `test-processes`, the rest of the tests, goes without.
coverage:
	$(RUN) pytest --cov --cov-report=term tests/unit tests/contract

test-processes:
	$(RUN) pytest tests/end_to_end tests/fault

# Every image format damaged in a thousand ways instead of two hundred.
test-images:
	CPCNN_MUTATIONS=1000 $(RUN) pytest tests/unit/cpcnn_core/test_image_files.py

# The documentation as a site, in site/: site/index.html opens from the disk. A broken link, or anything that a page would
# load from another host, is an error. The variable silences mkdocs-material's advertisement of its successor.
docs:
	NO_MKDOCS_2_WARNING=1 uv run --group docs mkdocs build --strict

# The tables and drawings that docs/ has from the program, written anew; a test compares them.
pages:
	$(RUN) python -m documentation

# What a release uploads, in dist/.
build:
	rm -rf dist
	uv build
	uvx twine check --strict dist/*

# The lowest versions that pyproject.toml allows, in an environment of their own; the pins under [tool.uv] hide them.
test-lowest:
	uv pip compile --no-config --quiet --resolution lowest-direct --python-version 3.11 --group dev pyproject.toml \
	| PYTHONPATH=. uv run --no-config --no-project --isolated --python 3.11 --with-requirements - \
		python -m pytest tests/unit tests/contract

# Hosts in namespaces of this machine: two addresses of one, then three of which two are lost. Some minutes, and as root.
test-cluster:
	$(RUN) --extra cluster python -m tests.cluster.loopback
	$(RUN) --extra cluster python -m tests.cluster.run
