"""The pictures of predicted sequences, of both programs, drawn side by side on all cores.

`sequence_jobs` says which files a sequence gets; `draw` writes them, in processes of their own where there is enough to
draw. Those start without torch and without the program that called them, so that they are quick, the same on every
system, and a dead one is noticed: what it left is drawn here.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modules.files import write_bytes
from modules.progress import Progress
from modules.runtime import InputError
from modules.show.curves import draw_scores, prepare_environment
from modules.show.panels import STRIP_SCALE, Film, Panels
from modules.show.video import save_gif, save_mp4

PICTURES = ("all", "strips", "none")  # --pictures: also films; only strips and curves; nothing
FILMS_OF_TRAINING = 4  # the first validation sequences: training does not wait for the others' films
ROOT = Path(__file__).resolve().parents[2]
WORTH_A_PROCESS = 600  # frames: fewer are drawn sooner than a process starts


class Job(NamedTuple):
    """Something to draw: `function(*arguments)` says what went wrong, or nothing. It is sent to another process."""

    function: Callable[..., str | None]
    arguments: tuple
    frames: int  # as a measure of the work


def to_images(frames) -> np.ndarray:
    """A tensor (T, 3, H, W), uint8 or float [0, 1] -> (T, H, W, 3) uint8; values outside are clipped, never wrapped."""
    from modules.data.pixels import to_uint8

    return np.ascontiguousarray(to_uint8(frames.nan_to_num(1.0) if frames.is_floating_point() else frames)
                                .permute(0, 2, 3, 1).cpu().numpy())


def sequence_jobs(
    film: Film, panel: Path, gifs: dict[Path, np.ndarray], pictures: str, films: bool = True
) -> list[Job]:
    """What people look at of one predicted sequence.

    panel: stem of the strip <panel>.png and of the film <panel>.mp4; films: with the latter. gifs: files and their
    frames. pictures: one of PICTURES.
    """
    if pictures == "none":
        return []
    frames, strip = len(film.prediction), panel.with_name(panel.name + ".png")
    jobs = [Job(write_strip, (strip, film), frames // 10 + 1)]
    if pictures == "all":
        jobs += [Job(save_gif, (path, images), len(images)) for path, images in gifs.items()]
    if pictures == "all" and films:
        jobs.append(Job(write_film, (panel.with_name(panel.name + ".mp4"), film), 4 * frames))
    return jobs


def scores_job(figures: list[tuple]) -> Job:
    """The figures of PSNR per frame, the arguments of draw_scores each; together, as matplotlib starts slowly."""
    return Job(draw_figures, (figures,), 100 * len(figures))


def draw_figures(figures: list[tuple]) -> None:
    """See scores_job."""
    for arguments in figures:
        draw_scores(*arguments)


def write_strip(path: Path, film: Film) -> None:
    """Ten moments of a film as a PNG."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(Panels(film, STRIP_SCALE).strip()).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def write_film(path: Path, film: Film) -> str:
    """All panels of a film as an MP4; as a GIF where that can't be done, with the reason."""
    panels = Panels(film)
    problem = save_mp4(path, panels.planes())
    if problem:
        save_gif(path.with_suffix(".gif"), np.stack(list(panels)))
        problem += f"; {path.with_suffix('.gif').name} is there instead"
    return problem


def write_frames(path: Path, film: Film) -> None:
    """The film's frames themselves, exact, as compressed arrays (numpy.load): prediction, pose and, if known, truth."""
    buffer, arrays = BytesIO(), {"prediction": film.prediction, "pose": film.pose}
    if film.truth is not None:
        arrays["truth"] = film.truth
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:  # numpy's own level is slow
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    write_bytes(path, buffer.getbuffer())


def draw(jobs: list[Job], title: str = "pictures") -> None:
    """Do all jobs, the longest first, and before them the figures, as matplotlib starts slowly. A bar counts frames.

    One warning line for each kind of problem; InputError where a file could not be written, after all others have been.
    """
    waiting, results = queue.SimpleQueue(), queue.Queue(1)  # 1: what a dead process left does not pile up here
    for job in sorted(jobs, key=lambda job: (job.function is not draw_figures, -job.frames)):
        waiting.put(job)
    work = sum(job.frames for job in jobs)
    processes = min(len(jobs), usable_cores(), work // WORTH_A_PROCESS)
    problems, failures, workers = {}, [], []
    if any(job.function is draw_figures for job in jobs):
        prepare_environment()  # matplotlib's folder is passed on to the processes
    try:
        if processes > 1:
            workers = [Worker(waiting, results) for _ in range(processes)]
        with Progress(title, work, "frame", leave=False) as bar:
            for _ in jobs:
                job, problem, failure = results.get() if workers else do(waiting.get())
                if failure is None and problem is None:  # its process died
                    job, problem, failure = do(job)
                if failure:
                    failures.append(failure)
                elif problem:
                    problems[problem] = problems.get(problem, 0) + 1
                bar.update(job.frames)
    finally:
        for worker in workers:
            worker.end()
    for problem, count in problems.items():
        print(f"warning: {problem}" + f" ({count} times)" * (count > 1), file=sys.stderr)
    if failures:
        more = f" (and {len(failures) - 1} others)" if len(failures) > 1 else ""
        raise InputError(failures[0] + more)


def do(job: Job) -> tuple[Job, str, str]:
    """Do one job here. Returns it, what the user should know, and why its file is not there."""
    try:
        return job, job.function(*job.arguments) or "", ""
    except (InputError, OSError) as error:
        return job, "", str(error)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process that draws, and the thread that gives it jobs until none is left. A job whose process died is reported
    without a result, and the following ones too."""

    def __init__(self, waiting: queue.SimpleQueue, results: queue.Queue):
        self.waiting, self.results, self.process = waiting, results, None
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
                   "from modules.show.pictures import serve; serve()"]
        with contextlib.suppress(OSError):  # no process to be had: everything is drawn here
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                pickle.dump(job, self.process.stdin, pickle.HIGHEST_PROTOCOL)
                self.process.stdin.flush()
                problem, failure = pickle.load(self.process.stdout)
            except (OSError, EOFError, ValueError, AttributeError, pickle.UnpicklingError):
                problem = failure = None
            self.results.put((job, problem, failure))

    def end(self) -> None:
        """End the process, also one that is busy; it takes its temporary files along."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


def serve() -> None:
    """What a process does: jobs from stdin, results to stdout, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the program's to answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _, problem, failure = do(job)
        pickle.dump((problem, failure), sys.stdout.buffer)
        sys.stdout.buffer.flush()
