"""Start Trainer.py over and over in forked children, since importing torch costs seconds; kill them at random moments.

    python tests/forked.py SEED KILLS SAVE_ROOT flags…

Writes SAVE_ROOT/whole, a run that nobody stops, and SAVE_ROOT/killed1, killed2, …, runs that are killed (SIGKILL) and
started again until they end, so many that KILLS kills have happened. Prints what happened, one word per start.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import Trainer
from modules.runtime import run_program
from modules.show.curves import draw_scores


def die_at_call(kind: str, count: int) -> None:
    """The count-th call of os.fsync or os.replace ends this process; "half": of fsync, with half of the file gone."""
    name, calls = {"half": "fsync"}.get(kind, kind), []
    original = getattr(os, name)

    def call(*arguments):
        calls.append(1)
        if len(calls) < count:
            return original(*arguments)
        if kind == "half":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, name, call)


def start(folder: Path, flags: list[str], log: Path, prepare=lambda: None) -> int:
    """Fork a child that trains into `folder`; returns its process id."""
    child = os.fork()
    if child:
        return child
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv, code = ["Trainer.py", "--save_root", str(folder), *flags], 1
    prepare()
    try:
        run_program(Trainer.main)
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    seed, kills, root, flags = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # imports torch._dynamo, once for all
    draw_scores({"": [1.0]}, root / "warm_up.png", "validation")
    rng, log, run = random.Random(seed), root / "log.txt", 1
    begin = time.monotonic()
    _, status = os.waitpid(start(root / "whole", flags, log), 0)
    assert status == 0, log.read_text()
    seconds = time.monotonic() - begin
    while kills:
        write, count = rng.choice(["half", "fsync", "replace"]), rng.randint(1, 8)
        inside, moment = rng.random() < 0.5, rng.uniform(0, seconds / 2)
        child = start(root / f"killed{run}", flags, log, lambda: inside and die_at_call(write, count))  # noqa: B023
        if not inside:
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills -= 1
            print(write if inside else "clock")
        else:
            assert os.WEXITSTATUS(status) == 0, log.read_text()
            print("ended")
            run += 1
    _, status = os.waitpid(start(root / f"killed{run}", flags, log), 0)
    assert status == 0, log.read_text()


if __name__ == "__main__":
    main()
