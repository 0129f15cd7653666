"""Dataset_Dance: find, check, decode once, cut into clips and sequences. The one place that knows the folder layout.

    DR/train/train_img/*.png   DR/train/train_label/*.png     frames and their pose pictures, the same file names
    DR/val/val_img/*.png       DR/val/val_label/*.png
    DR/test/test_img/<i>/*.png  (the first frame)   DR/test/test_label/<i>/*.png  (one pose per frame)
"""

import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modules.data.picture_cache import cached_pictures, default_cache_dir
from modules.runtime import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_DIGITS = 15  # of a frame number


class Sequence(NamedTuple):
    """A sequence to predict or to score."""

    name: str
    frames: Tensor  # (T, 3, H, W) uint8 in val; (1, 3, H, W), the first frame, in test
    poses: Tensor  # (T, 3, H, W) uint8; poses[0] belongs to the first frame


def frame_number(path: Path) -> int:
    """The last number in a file's name: frame000123.png -> 123."""
    digits = re.findall("[0-9]+", path.stem)
    if not digits or len(digits[-1]) > MAX_DIGITS:
        kind = "a number of too many digits" if digits else "a file name without a number"
        raise InputError(f"{path}: {kind}; expected names like frame000123.png")
    return int(digits[-1])


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of one folder in the order of their numbers. InputError if there are none or a number repeats."""
    if not folder.is_dir():
        raise InputError(f"{folder}: folder not found; expected the layout {layout_hint(folder)}")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    files = [Path(entry.path) for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    if not files:
        raise InputError(f"{folder}: no PNG pictures in it; expected frame000000.png, frame000001.png, …")
    files.sort(key=lambda path: (frame_number(path), path.name))
    for one, other in zip(files, files[1:], strict=False):
        if frame_number(one) == frame_number(other):
            raise InputError(f"{other}: has the same number as {one.name}; expected one picture per frame number")
    return files


def layout_hint(folder: Path) -> str:
    """The part of the course's layout that `folder` belongs to, for messages."""
    mode = next((part for part in ("train", "val", "test") if part in str(folder.name)), "train")
    index = "<i>/" if mode == "test" else ""
    return f"DR/{mode}/{mode}_img/{index}frameNNNNNN.png and DR/{mode}/{mode}_label/{index}frameNNNNNN.png"


def find_root(root: str | Path) -> Path:
    """The folder that holds train/, val/ and test/: `root`, or the one it is nested in (LAB4_Dataset/LAB4_Dataset)."""
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: folder not found; --DR is the folder that holds train/, val/ and test/")
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    for candidate in [root, *inside, *(below for path in inside for below in sorted(path.iterdir()) if below.is_dir())]:
        if any((candidate / mode / f"{mode}_img").is_dir() for mode in ("train", "val", "test")):
            return candidate
    raise InputError(f"{root}: holds no train/train_img, val/val_img or test/test_img; expected LAB4_Dataset's layout")


def check_pairs(frames: list[Path], poses: list[Path]) -> None:
    """Frames pair with poses by file name (without the ending); InputError names the first that has no partner."""
    frame_names, pose_names = {path.stem: path for path in frames}, {path.stem: path for path in poses}
    for name, path in frame_names.items():
        if name not in pose_names:
            raise InputError(f"{path}: has no pose picture; expected {poses[0].parent / name}.png")
    for name, path in pose_names.items():
        if name not in frame_names:
            raise InputError(f"{path}: has no frame; expected {frames[0].parent / name}.png")


def find_clips(numbers: list[int]) -> list[tuple[int, int]]:
    """Cut sorted frame numbers into clips [begin, end): runs that go up by the step most common in the set."""
    if len(numbers) < 2:
        return [(0, len(numbers))]
    steps = np.diff(numbers)
    step = Counter(steps.tolist()).most_common(1)[0][0]
    cuts = [0, *(np.flatnonzero(steps != step) + 1).tolist(), len(numbers)]
    return list(zip(cuts, cuts[1:], strict=False))


class Dataset_Dance(Dataset):
    """One mode of a data set in the course's layout.

    root: the data set, nested or not. mode: "train", "val" or "test".
    train_vi_len: frames of one training window; val_vi_len: at most so many frames of a validation sequence.
    partial: the leading share of the training frames to use, (0, 1].

    "train": `frames` and `poses` are (N, 3, H, W) uint8, `clips` the [begin, end) runs without a cut; item i is the
    i-th non-overlapping window, a pair (train_vi_len, 3, H, W). "val" and "test": item i is `sequences[i]`.
    """

    def __init__(
        self,
        root: str | Path,
        mode: str,
        frame_H: int = 32,
        frame_W: int = 64,
        train_vi_len: int = 16,
        val_vi_len: int = 630,
        partial: float = 1.0,
        cache_dir: str | Path | None = None,
        workers: int | None = None,
    ):
        self.mode, self.train_vi_len, self.partial = mode, train_vi_len, partial
        size = (frame_H, frame_W, Path(cache_dir) if cache_dir else default_cache_dir(), workers or os.cpu_count() or 1)

        def load(files: list[Path], name: str) -> Tensor:
            # copy-on-write pages of the cache: torch wants a writable array, the file stays as it is
            cached = cached_pictures(files, *size, name)
            return torch.from_numpy(np.load(cached.filename, mmap_mode="c"))

        folder = find_root(root) / mode
        if mode == "test":
            self.sequences = self._find_test(folder, load)
            return
        files = list_pictures(folder / f"{mode}_img")
        pose_files = list_pictures(folder / f"{mode}_label")
        check_pairs(files, pose_files)
        self.frames, self.poses = load(files, f"{mode}_img"), load(pose_files, f"{mode}_label")
        self.clips = find_clips([frame_number(path) for path in files])
        if mode == "train" and not len(self.windows(partial)):
            longest = max(end - begin for begin, end in self.clips_within(partial))
            raise InputError(
                f"{folder / 'train_img'}: the longest clip without a cut has {longest} frames (--partial {partial}); "
                f"expected at least --train_vi_len {train_vi_len}"
            )
        if mode == "val":
            self.sequences = self._cut_validation(val_vi_len)

    def __len__(self) -> int:
        return len(self.windows(self.partial)) if self.mode == "train" else len(self.sequences)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor] | Sequence:
        if self.mode != "train":
            return self.sequences[i]
        window = self.windows(self.partial)[i]
        return self.frames[window], self.poses[window]

    def clips_within(self, partial: float) -> list[tuple[int, int]]:
        """The clips within the leading `partial` of the frames."""
        limit = max(1, round(len(self.frames) * partial))
        return [(begin, min(end, limit)) for begin, end in self.clips if begin < limit]

    def windows(self, partial: float) -> Tensor:
        """The template's order: indices (n, train_vi_len) of non-overlapping windows, none across a cut."""
        T = self.train_vi_len
        starts = [start for begin, end in self.clips_within(partial) for start in range(begin, end - T + 1, T)]
        return torch.tensor(starts, dtype=torch.long).reshape(-1, 1) + torch.arange(T)

    def _cut_validation(self, val_vi_len: int) -> list[Sequence]:
        """Non-overlapping sequences of val_vi_len frames from every clip; a shorter clip is one sequence."""
        sequences = []
        for begin, end in self.clips:
            for start in range(begin, end, val_vi_len):
                stop = min(start + val_vi_len, end)
                if stop - start == val_vi_len or (start == begin and stop - start > 1):
                    sequences.append(Sequence(f"val{len(sequences)}", self.frames[start:stop], self.poses[start:stop]))
        if not sequences:
            raise InputError("the validation set has no two frames in a row; expected val/val_img/frame000000.png, …")
        return sequences

    @staticmethod
    def _find_test(folder: Path, load) -> list[Sequence]:
        """One Sequence per numbered folder of test_label, in the order of the numbers."""
        labels = folder / "test_label"
        if not labels.is_dir():
            raise InputError(f"{labels}: folder not found; expected the layout {layout_hint(labels)}")
        names = sorted((p.name for p in labels.iterdir() if p.is_dir() and re.fullmatch("[0-9]{1,9}", p.name)), key=int)
        if not names:
            raise InputError(f"{labels}: no test sequence; expected the layout {layout_hint(labels)}")
        sequences = []
        for name in names:
            first, poses = list_pictures(folder / "test_img" / name), list_pictures(labels / name)
            if len(poses) < 2:
                raise InputError(f"{labels / name}: {len(poses)} pose; expected the first frame's and one more")
            sequences.append(Sequence(name, load(first[:1], f"test_img/{name}"), load(poses, f"test_label/{name}")))
        return sequences
