"""What demo.py and test.py stand on: a virtual environment, and programs that run in it. Standard library only.

VENV=path reuses or makes the environment there; the default is .venv. PYTHON names the interpreter to make it with; the
default is the one that runs this.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may hold what a console does not know


def from_here(path):
    """A path as it was given, in full: programs run in the project's folder."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def fail(message):
    print("error: " + message, file=sys.stderr)
    sys.exit(2)


def make_environment(*packages):
    """The environment's python, with requirements.txt and the named packages installed."""
    python = os.environ.get("PYTHON") or sys.executable
    folder = from_here(os.environ["VENV"]) if os.environ.get("VENV") else ROOT / ".venv"
    inside = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not inside.exists():
        check = "import sys; sys.exit(sys.version_info < (3, 10))"
        try:
            old = subprocess.call([python, "-c", check])
        except OSError as error:
            fail(f"PYTHON {python}: {error.strerror}")
        if old:
            fail("Python 3.10 or newer is needed (PYTHON=path names one)")
        print(f"Making the virtual environment {folder}", flush=True)
        new = not folder.exists()
        if subprocess.call([python, "-m", "venv", str(folder)]):
            if new:  # without pip it would be of no use the next time
                shutil.rmtree(str(folder), ignore_errors=True)
            fail(f"{folder} could not be made; VENV=path names an environment that there is")
    quiet = ["--quiet", "--disable-pip-version-check"]
    call(inside, "-m", "pip", "install", *quiet, "-r", "requirements.txt", *packages)
    return inside


def call(*command):
    """Run a command in the project's folder; where it fails, end with its exit code.

    A signal to end is the command's: it saves, and this waits for it. Ctrl-C reaches both without help.
    """
    process, handlers = subprocess.Popen([str(word) for word in command], cwd=str(ROOT)), {}

    def hand_on(number, _frame):
        if number != signal.SIGINT:
            process.send_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) != signal.SIG_IGN:
            handlers[number] = signal.signal(number, hand_on)
    code = process.wait()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if code:
        sys.exit(code if code > 0 else 128 - code)
