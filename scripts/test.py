"""Install into a virtual environment, then run ruff and pytest: python scripts/test.py [pytest arguments]

VENV=path names an environment.
"""

import sys

from environment import call, make_environment

PACKAGES = ("pytest>=8.0", "pytest-xdist>=3.5", "ruff>=0.6", "selenium>=4.20", "nbclient>=0.8", "ipykernel>=6")

if __name__ == "__main__":
    python = make_environment(*PACKAGES)
    call(python, "-m", "ruff", "check", ".")
    call(python, "-m", "pytest", "--numprocesses", "auto", "--dist", "worksteal", *sys.argv[1:])
