# Sourced by demo.sh and test.sh: a virtual environment with requirements.txt (and any packages named as arguments).
# VENV=path reuses or makes the environment there; the default is .venv. PYTHON names the interpreter to make it with.
VENV="${VENV:-.venv}"
if [ ! -x "$VENV/bin/python" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "error: Python 3.10 or newer is needed (PYTHON=path names one)" >&2
        exit 2
    }
    echo "Making the virtual environment $VENV"
    "${PYTHON:-python3}" -m venv "$VENV"
fi
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt "$@"
