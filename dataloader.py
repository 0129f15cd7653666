"""Dataset_Dance: find, check, decode once, cut into clips and sequences. Its folders: modules/data/layout.py.

Another data layout is another class. What the programs use of one: `frames`, `poses` (N, 3, H, W) uint8, `clips`,
`clips_within(partial)`, `windows(partial)`, `check_share(partial)`, `sequences`, `decode()`, `digest()`, `describe()`.
"""

import contextlib
import itertools
import os
import sys
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from modules.data.image_cache import cached_images, default_cache_dir
from modules.data.layout import find_tests, mode_folder, paired_files
from modules.data.pairing import Faults, find_clips
from modules.data.reading import read_image
from modules.data.sequence import Sequence
from modules.runtime import InputError

FEW, FEW_SHARE = 3, 0.02  # constant images, and their share, that are no reason to warn
CONSTANT = 2  # levels between the darkest and the brightest value of a channel that shows nothing


class Dataset_Dance(Dataset):
    """One mode of a data set in the course's layout. The names of its files are read and checked at once; the images
    are decoded when they are first used, or by `decode()`.

    root: the data set, nested or not. mode: "train", "val" or "test".
    train_vi_len: frames of one training window; val_vi_len: at most so many frames of a validation sequence.
    partial: the leading share of the training frames to use, (0, 1].
    skip_bad: leave out, as cuts, images that have no partner or cannot be read (all are decoded at once to know them);
    else an InputError names them.

    "train": `frames` and `poses` are (N, 3, H, W) uint8, `clips` the [begin, end) runs without a cut; item i is the
    i-th non-overlapping window, a pair (train_vi_len, 3, H, W). "val" also has `sequences`, "test" has only these, and
    item i is `sequences[i]`.
    """

    def __init__(
        self, root: str | Path, mode: str, frame_H: int = 32, frame_W: int = 64, train_vi_len: int = 16,
        val_vi_len: int = 630, partial: float = 1.0, cache_dir: str | Path | None = None, workers: int | None = None,
        skip_bad: bool = False, **unknown: Any,
    ):
        if unknown or mode not in ("train", "val", "test"):
            raise InputError(f"Dataset_Dance(root, {mode!r:.40}, {', '.join(unknown)}): expected Dataset_Dance(root, "
                             "'train', frame_H=32, frame_W=64, train_vi_len=16), or mode 'val' or 'test'")
        self.mode, self.train_vi_len, self.val_vi_len, self.partial = mode, train_vi_len, val_vi_len, partial
        self.size, self.cache_dir, self.skip_bad = (frame_H, frame_W), cache_dir, skip_bad
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        self.folder = mode_folder(root, mode)
        if mode == "test":
            self._tests = find_tests(self.folder, skip_bad)
        else:
            self._pairs = paired_files(self.folder, mode, skip_bad)
            self._cut()
        if skip_bad:
            self.decode()
        if mode == "train":
            self.check_share(partial)

    def __len__(self) -> int:
        return len(self.windows(self.partial) if self.mode == "train" else self.sequences)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor] | Sequence:
        if self.mode != "train":
            return self.sequences[i]
        window = self.windows(self.partial)[i]
        return self.frames[window], self.poses[window]

    @property
    def frames(self) -> Tensor:
        return self._images[0]

    @property
    def poses(self) -> Tensor:
        return self._images[1]

    def decode(self) -> None:
        """Decode all images, or map those that were. One InputError names all that cannot be read."""
        _ = self.sequences if self.mode == "test" else self._images

    def clips_within(self, partial: float) -> list[tuple[int, int]]:
        """The clips within the leading `partial` of the frames."""
        limit = max(1, round(len(self._pairs) * partial))
        return [(begin, min(end, limit)) for begin, end in self.clips if begin < limit]

    def windows(self, partial: float) -> Tensor:
        """The template's order: indices (n, train_vi_len) of non-overlapping windows, none across a cut."""
        T = self.train_vi_len
        starts = [start for begin, end in self.clips_within(partial) for start in range(begin, end - T + 1, T)]
        return torch.tensor(starts, dtype=torch.long).reshape(-1, 1) + torch.arange(T)

    def check_share(self, partial: float, flag: str = "--partial", before: int = 0) -> None:
        """InputError if the leading `partial` of the frames holds no window of train_vi_len, and `before` more."""
        longest = max((end - begin for begin, end in self.clips_within(partial)), default=0)
        if longest < self.train_vi_len + before:
            raise InputError(f"{self.folder / 'train_img'}: the longest clip has {longest} frames ({flag} {partial}); "
                             f"expected at least --train_vi_len {self.train_vi_len}" + f" and {before} before" * before)

    def describe(self) -> str:
        """One line on train or val: what there is, and what of it is used."""
        spans, place = self._spans, f"sequences: {len(self._spans)}"
        if self.mode == "train":
            spans = [(begin, end) for begin, end in self.clips_within(self.partial) if end - begin >= self.train_vi_len]
            place = f"clips of at least {self.train_vi_len} within the leading {self.partial:.0%}"
        total, used = len(self._pairs), sum(end - begin for begin, end in spans)
        return (f"{self.mode}: {total:,} frames, clips without a cut: {len(self.clips):,}; "
                f"{used:,} frames used ({used / total:.0%}), {place}")

    def digest(self) -> str:
        """Of the images, a sample of them, and of the spans that are used: the same for the same data elsewhere."""
        step = max(1, len(self.frames) // 64)
        sample = [images[::step].numpy().tobytes() for images in (self.frames, self.poses)]
        return f"{len(self.frames)} frames, {zlib.crc32(b''.join([*sample, repr(self._spans).encode()])):08x}"

    def _cut(self) -> None:
        """Find the clips [begin, end), and the spans of them that are validation sequences."""
        self.clips, begin = [], 0
        for _, keys in itertools.groupby(self._pairs, key=lambda key: key[0]):  # a clip lies in one folder
            numbers = [number for _, number in keys]
            self.clips += [(begin + start, begin + stop) for start, stop in find_clips(numbers)]
            begin += len(numbers)
        # sequences of val_vi_len frames without overlap; a shorter clip is one sequence
        length, self._spans = self.val_vi_len, []
        for begin, end in self.clips:
            stops = [*range(begin + length, end + 1, length)] or [end]
            self._spans += [(max(begin, stop - length), stop) for stop in stops if stop - begin > 1]
        if self.mode == "val" and not self._spans:
            raise InputError("the validation set has no two frames in a row; expected val/val_img/frame000000.png, …")

    def _decode(self, lists: dict[str, list[Path]]) -> tuple[list[Tensor], list[set[int]]]:
        """The images of every list, and the places in it that are to be skipped since they cannot be read."""
        cache_dir = Path(self.cache_dir) if self.cache_dir else default_cache_dir()
        images, skipped, faults = [], [], Faults()
        warn_if_squeezed(next(iter(lists.values()))[0], *self.size)
        for name, files in lists.items():
            array, broken = cached_images(files, *self.size, cache_dir, self.workers, name)
            for place in sorted(broken):
                faults.add(files[place], broken[place])
            images.append(torch.from_numpy(array))
            skipped.append(set(broken))
        faults.settle(self.skip_bad, "images that can be read")
        return images, skipped

    @cached_property
    def _images(self) -> tuple[Tensor, Tensor]:
        """Frames and poses (N, 3, H, W)."""
        names = [f"{self.mode}_img", f"{self.mode}_label"]
        images, skipped = self._decode(dict(zip(names, zip(*self._pairs.values(), strict=True), strict=True)))
        if any(skipped):
            pairs, kept = list(self._pairs.items()), sorted(set(range(len(self._pairs))).difference(*skipped))
            self._pairs, images = dict(pairs[i] for i in kept), [array[kept] for array in images]
            self._cut()
        check_constant(images[0], self.folder / names[0])
        repeat_poses(images[1], self.folder / names[1], self.clips)
        return tuple(images)

    @cached_property
    def sequences(self) -> list[Sequence]:
        if self.mode != "test":
            self.decode()
            numbers = [number for _, number in self._pairs]
            return [Sequence(f"val{i}", self.frames[a:b], self.poses[a:b], tuple(numbers[a:b]))
                    for i, (a, b) in enumerate(self._spans)]
        lists = {f"test_img/{files.name}": [files.first] for files in self._tests}
        lists |= {f"test_label/{files.name}": files.poses for files in self._tests}
        images, skipped = self._decode(lists)
        sequences, n = [], len(self._tests)
        for files, first, poses, broken in zip(self._tests, images, images[n:], skipped, strict=False):
            if not broken:  # a pose that cannot be read is blank
                repeat_poses(poses, self.folder / "test_label" / files.name, [(0, len(poses))])
                sequences.append(Sequence(files.name, first, poses, files.numbers))
        if not sequences:
            raise InputError(f"{self.folder / 'test_img'}: no first frame can be read; expected PNG images")
        return sequences


def warn_if_squeezed(path: Path, height: int, width: int) -> None:
    """Warn if an image has quite another aspect than the frames."""
    with contextlib.suppress(InputError):  # an image that cannot be read is named later
        _, own_height, own_width = read_image(path).shape
        if not 2 / 3 < own_width * height / (own_height * width) < 3 / 2:
            print(f"warning: {path}: {own_width}x{own_height} pixels are squeezed to {width}x{height}; "
                  "scripts/import_video.py crops", file=sys.stderr)


def check_constant(images: Tensor, folder: Path) -> list[int]:
    """Which images (N, 3, H, W) show one colour only; a warning if that is more than a few."""
    spreads = [part.flatten(2).amax(dim=2) - part.flatten(2).amin(dim=2) for part in images.split(4096)]  # (n, 3)
    constant = (torch.cat(spreads) <= CONSTANT).all(dim=1).nonzero().flatten().tolist()
    count, share = len(constant), len(constant) / max(1, len(images))
    if share > FEW_SHARE and (count > FEW or count == len(images)):
        print(f"warning: {folder}: {count:,} of {len(images):,} images ({share:.0%}) show one colour only (transparent "
              "pixels are white); are they as they should be?", file=sys.stderr)
    return constant


def repeat_poses(poses: Tensor, folder: Path, clips: list[tuple[int, int]]) -> None:
    """Replace blank poses by the previous pose of their clip [begin, end). Skipped if more than half of the images are
    constant: then the poses are not skeletons on a background."""
    constant, begins = check_constant(poses, folder), {begin for begin, _ in clips}
    for i in constant if 2 * len(constant) <= len(poses) else ():
        if i not in begins:
            poses[i] = poses[i - 1]
