# The same targets that .ci/run calls.
.PHONY: check lint format types imports test test-cluster test-images

check: lint types imports test

lint:
	uv run ruff format --check .
	uv run ruff check .

format:
	uv run ruff format .
	uv run ruff check --fix .

types:
	uv run mypy

imports:
	uv run lint-imports

test:
	pip install uv && uv run pytest

# Every image format damaged in a thousand ways instead of two hundred.
test-images:
	CPCNN_MUTATIONS=1000 uv run pytest tests/unit/test_image_files.py

# Hosts in namespaces of this machine: two addresses of one, then three of which two are lost. Some minutes, and as root.
test-cluster:
	uv run --extra cluster python -m tests.cluster.loopback
	uv run --extra cluster python -m tests.cluster.run
