"""The virtual environment of demo.py and test.py, and programs that run in it. Standard library only.

VENV=path names the environment (default: .venv). The interpreter that runs this makes it.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

GIGABYTES = 8 if sys.platform == "linux" else 2  # PyTorch with CUDA, also while it is unpacked
ROOT = Path(__file__).resolve().parent.parent
sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may have letters that a console lacks


def fail(message):
    print("error: " + message, file=sys.stderr)
    sys.exit(2)


def make_environment(*packages):
    """Install requirements.txt and the packages into the environment. Returns the path of its python."""
    folder = Path(os.environ.get("VENV") or ROOT / ".venv").expanduser().absolute()
    inside = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not inside.exists():
        if sys.version_info < (3, 10) or not importlib.util.find_spec("ensurepip"):  # noqa: UP036
            fail(f"{sys.executable} is {sys.version.split()[0]}; expected Python 3.10 or newer with venv (apt install "
                 "python3-venv), or VENV=path, an environment that exists")
        free = shutil.disk_usage(str(next(place for place in folder.parents if place.exists()))).free / 1e9
        if free < GIGABYTES:
            fail(f"{free:.1f} GB are free for {folder}; expected {GIGABYTES}, or PyTorch for the CPU, see README.md")
        print(f"Making the virtual environment {folder}", flush=True)
        is_new = not folder.exists()
        if subprocess.call([sys.executable, "-m", "venv", str(folder)]):
            if is_new:  # an environment without pip could not be used next time
                shutil.rmtree(str(folder), ignore_errors=True)
            fail(f"{folder} could not be made; VENV=path names an existing environment")
    call(inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt", *packages)
    return inside


def call(*command):
    """Run a command in the project's folder, pass signals to end on to it, exit with its code if it fails."""
    process = subprocess.Popen([str(word) for word in command], cwd=str(ROOT))

    def pass_on(number, _frame):
        if number != signal.SIGINT:  # Ctrl-C reaches the command without help
            process.send_signal(number)

    for number in {getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")} - {None}:  # Windows: two
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, pass_on)
    code = process.wait()
    if code:
        sys.exit(code if code > 0 else 128 - code)
