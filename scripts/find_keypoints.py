"""Find the joints of the person in a video: COCO JSON for import_video.py and drive.py.

    python scripts/find_keypoints.py dance.mp4 --out keypoints.json

The detector is mediapipe 0.10.21 (Apache-2.0), which finds one person; its wheel brings its weights. It needs an older
numpy and Python 3.9 to 3.12, so it lives in an environment of its own, .venv-pose, 420 MB, made at first use.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.pose.keypoints import to_person, write_coco
from modules.pose.skeleton import NAMES
from modules.pose.video import Video, open_video, read_frames
from modules.progress import Progress
from modules.runtime import InputError, run_program

ENVIRONMENT = Path(__file__).parent.parent / ".venv-pose"
REQUIREMENTS = Path(__file__).with_name("pose_requirements.txt")
VERSIONS = [(3, minor) for minor in (12, 11, 10, 9)]


def pose_python() -> Path:
    """The interpreter of the detector's environment, which is made whole or not at all."""
    python, mark = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"), "installed.txt"
    if (ENVIRONMENT / mark).is_file():
        return python
    bases = [sys.executable] if sys.version_info[:2] in VERSIONS else []
    bases += filter(None, (shutil.which(f"python{major}.{minor}") for major, minor in VERSIONS))
    if not bases:
        raise InputError("mediapipe runs on Python 3.9 to 3.12, and neither is this one of them nor is one there; "
                         "expected python3.12, or --keypoints of another detector")
    print(f"Making the detector's environment {ENVIRONMENT} (420 MB, once)")
    try:
        for command in ([bases[0], "-m", "venv", "--clear", ENVIRONMENT],
                        [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", REQUIREMENTS]):
            subprocess.run(command, check=True, capture_output=True, text=True)
        (ENVIRONMENT / mark).touch()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1][:200]
        raise InputError(f"mediapipe cannot be installed ({reason}); expected a package registry, or --keypoints of "
                         "another detector") from None
    finally:
        if not (ENVIRONMENT / mark).is_file():
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    return python


def find_people(video: Video) -> Iterator[np.ndarray]:
    """The person of every frame: (1, J, 3), or (0, J, 3) where nobody is found."""
    worker = [pose_python(), Path(__file__).with_name("pose_worker.py"), str(video.width), str(video.height)]
    with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        with Progress("detecting", len(video.times), "frame") as bar:
            try:
                for frame in read_frames(video):
                    process.stdin.write(frame.tobytes())
                    process.stdin.flush()
                    joints = json.loads(process.stdout.readline())
                    yield np.array([to_person(joints, video.path)] if joints else []).reshape(-1, len(NAMES), 3)
                    bar.update()
            except (OSError, ValueError):
                raise InputError(f"the detector ended too early; remove {ENVIRONMENT} to install it again") from None
            finally:
                process.kill()


def find_keypoints(video: Video, out: Path) -> None:
    """Write the video's keypoints. InputError if nobody is found."""
    people = list(find_people(video))
    count = sum(map(len, people))
    if not count:
        raise InputError(f"{video.path}: mediapipe finds no person in {len(people)} frames; expected one, large enough")
    names = [file.name for file in (video.files or {}).values()] or [f"frame{t:06d}" for t in range(len(people))]
    info = {"detector": "mediapipe 0.10.21", "seconds": video.times.round(4).tolist()}
    info |= {} if video.files else {"frames_per_second": round(video.rate, 3)}
    write_coco(out, names, people, video.height, video.width, info)
    print(f"{video.path}: mediapipe finds a person in {count} of {len(people)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video, or a folder of numbered images")
    parser.add_argument("--out", type=Path, required=True, metavar="K.json", help="the file to write; a new one")
    args = parser.parse_args()
    if args.out.exists():
        raise InputError(f"{args.out}: exists; expected the name of a new file")
    find_keypoints(open_video(args.video), args.out)


if __name__ == "__main__":
    run_program(main)
