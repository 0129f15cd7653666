#!/usr/bin/env bash
# Install into a virtual environment, then run ruff and pytest: bash scripts/test.sh [pytest arguments]
set -euo pipefail
VENV="${VENV:+$(realpath -ms "$VENV")}"
cd "$(dirname "$0")/.."
source scripts/setup.sh "pytest>=8.0" "pytest-xdist>=3.5" "ruff>=0.6" "selenium>=4.20" "tensorboard>=2.16"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m pytest --numprocesses auto --dist loadfile "$@"
