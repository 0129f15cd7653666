"""Find the joints of the person in a video: COCO JSON for import_video.py and drive.py.

    python scripts/find_keypoints.py dance.mp4 --out keypoints.json

The detector is mediapipe 0.10.21 (Apache-2.0), which finds one person; its wheel brings its weights. It needs an older
numpy and Python 3.9 to 3.12, so it lives in an environment of its own, .venv-pose, 420 MB, made at first use.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from modules.pose.keypoints import to_person, write_coco
from modules.pose.output import script_parser
from modules.pose.video import Video, open_video, read_frames
from modules.progress import Progress
from modules.runtime import InputError, run_program

ENVIRONMENT = Path(__file__).parent.parent / ".venv-pose"
REQUIREMENTS = Path(__file__).with_name("pose_requirements.txt")
NEWEST = (3, 12)  # Python that mediapipe has wheels for


def pose_python() -> Path:
    """The interpreter of the detector's environment, which is made whole or not at all."""
    python, mark = ENVIRONMENT / ("Scripts" if sys.platform == "win32" else "bin") / "python", "installed.txt"
    if (ENVIRONMENT / mark).is_file():
        return python
    if sys.version_info[:2] > NEWEST:
        raise InputError(f"mediapipe runs on Python 3.9 to 3.12, this is {sys.version.split()[0]}; expected to be run "
                         "once with python3.12, or --keypoints of another detector")
    print(f"Making the detector's environment {ENVIRONMENT} (420 MB, once)")
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", ENVIRONMENT],
                        [python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", REQUIREMENTS]):
            subprocess.run(command, check=True, capture_output=True, text=True)
        (ENVIRONMENT / mark).touch()
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or str(error)).splitlines()[-1][:200]
        raise InputError(f"mediapipe cannot be installed ({reason}); expected a package registry, or --keypoints of "
                         "another detector") from None
    finally:
        if not (ENVIRONMENT / mark).is_file():
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    return python


def find_keypoints(video: Video, out: Path) -> None:
    """Write the video's keypoints. InputError if nobody is found."""
    worker = [pose_python(), Path(__file__).with_name("pose_worker.py"), str(video.width), str(video.height)]
    pipes, people = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}, []
    with Progress("detecting", len(video.times), "frame") as bar, subprocess.Popen(worker, **pipes) as process:
        try:
            for frame in read_frames(video):
                process.stdin.write(frame.tobytes())
                process.stdin.flush()
                joints = json.loads(process.stdout.readline())
                people.append([to_person(joints, video.path)] if joints else [])
                bar.update()
        except (OSError, ValueError):
            raise InputError(f"the detector ended too early; remove {ENVIRONMENT} to install it again") from None
        finally:
            process.kill()
    count = sum(map(len, people))
    if not count:
        raise InputError(f"{video.path}: mediapipe finds no person in {len(people)} frames; expected one, large enough")
    names = [file.name for file in (video.files or {}).values()] or [f"frame{t:06d}" for t in range(len(people))]
    info = {"detector": "mediapipe 0.10.21"} | ({} if video.files else {"frames_per_second": round(video.rate, 3)})
    write_coco(out, names, people, video.height, video.width, info)
    print(f"{video.path}: mediapipe finds a person in {count} of {len(people)} frames")


def main() -> None:
    parser = script_parser(__doc__, "the JSON file to write; a new one")
    parser.add_argument("video", type=Path, metavar="VIDEO", help="a video, or a folder of numbered images")
    args = parser.parse_args()
    if args.out.exists():
        raise InputError(f"{args.out}: exists; expected the name of a new file")
    find_keypoints(open_video(args.video), args.out)


if __name__ == "__main__":
    run_program(main)
