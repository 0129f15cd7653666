"""Dataset_Dance: find, check, decode once, cut into clips and sequences. Its folders: modules/data/layout.py.

Another data layout is another class. What the programs use of one: `frames`, `poses` (N, 3, H, W) uint8, `clips`,
`clips_within(partial)`, `windows(partial)`, `check_share(partial)`, `sequences`, `decode()` and `describe()`.
"""

import os
import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from modules.data.image_cache import UnreadableImages, cached_images, default_cache_dir
from modules.data.layout import find_tests, mode_folder, paired_files
from modules.data.pairing import Faults, find_clips
from modules.data.sequence import Sequence
from modules.runtime import InputError

FEW = 3  # constant pictures that are no reason to warn, and
FEW_SHARE = 0.02  # the share of a list that is none
CONSTANT = 2  # levels between the darkest and the brightest value of a channel that shows nothing


class Dataset_Dance(Dataset):
    """One mode of a data set in the course's layout. Made from names alone; pictures are decoded when they are first
    used, or by `decode()`.

    root: the data set, nested or not. mode: "train", "val" or "test".
    train_vi_len: frames of one training window; val_vi_len: at most so many frames of a validation sequence.
    partial: the leading share of the training frames to use, (0, 1].
    skip_bad: leave out, as cuts, pictures without a partner or that cannot be read; else each is an InputError's line.

    "train": `frames` and `poses` are (N, 3, H, W) uint8, `clips` the [begin, end) runs without a cut; item i is the
    i-th non-overlapping window, a pair (train_vi_len, 3, H, W). "val" has these and `sequences`, "test" only these:
    item i is `sequences[i]`.
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
        skip_bad: bool = False,
    ):
        self.mode, self.train_vi_len, self.val_vi_len, self.partial = mode, train_vi_len, val_vi_len, partial
        self.size, self.cache_dir, self.skip_bad = (frame_H, frame_W), cache_dir, skip_bad
        self.workers = (os.cpu_count() or 1) if workers is None else max(1, workers)
        self.folder, self.shares = mode_folder(root, mode), {partial: "--partial"}
        if mode == "test":
            self._tests = find_tests(self.folder, skip_bad)
        else:
            self._keys, self._frame_files, self._pose_files = paired_files(self.folder, mode, skip_bad)
            self._cut()

    def __len__(self) -> int:
        if self.mode == "train":
            return len(self.windows(self.partial))
        return len(self.sequences)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor] | Sequence:
        if self.mode != "train":
            return self.sequences[i]
        window = self.windows(self.partial)[i]
        return self.frames[window], self.poses[window]

    @property
    def frames(self) -> Tensor:
        return self._pictures[0]

    @property
    def poses(self) -> Tensor:
        return self._pictures[1]

    @property
    def clips(self) -> list[tuple[int, int]]:
        if self.skip_bad:
            self.decode()  # tells which pictures can be read
        return self._clips

    def decode(self) -> None:
        """Decode all pictures, or map those that were. One InputError tells all that cannot be read."""
        _ = self.sequences if self.mode == "test" else self._pictures

    def clips_within(self, partial: float) -> list[tuple[int, int]]:
        """The clips within the leading `partial` of the frames."""
        return self._within(self.clips, partial)

    def windows(self, partial: float) -> Tensor:
        """The template's order: indices (n, train_vi_len) of non-overlapping windows, none across a cut."""
        T = self.train_vi_len
        starts = [start for begin, end in self.clips_within(partial) for start in range(begin, end - T + 1, T)]
        return torch.tensor(starts, dtype=torch.long).reshape(-1, 1) + torch.arange(T)

    def check_share(self, partial: float, flag: str = "--partial") -> None:
        """InputError if the leading `partial` of the frames holds no window of train_vi_len. Decodes nothing."""
        self.shares[partial] = flag
        longest = max(end - begin for begin, end in self._within(self._clips, partial))
        if longest < self.train_vi_len:
            raise InputError(
                f"{self.folder / 'train_img'}: the longest clip without a cut has {longest} frames ({flag} {partial}); "
                f"expected at least --train_vi_len {self.train_vi_len}"
            )

    def describe(self) -> str:
        """One line: what there is, what of it is used, and, once decoded, how much of it shows nothing."""
        if self.mode == "test":
            lengths = [len(files.numbers) for files in self._tests]
            some = ", ".join(map(str, lengths[:6])) + (", …" if lengths[6:] else "")
            return f"test: {counted(len(lengths), 'sequence')} of {some} frames"
        total = len(self._keys)
        text = f"{self.mode}: {counted(total, 'frame')} in {counted(len(self._clips), 'clip')}"
        if self.mode == "train":
            lengths = [end - begin for begin, end in self._within(self._clips, self.partial)]
            used = sum(length for length in lengths if length >= self.train_vi_len)
            within = "" if self.partial == 1 else f" within the leading {self.partial:.0%}"
            place = f"clips of at least {self.train_vi_len}{within}"
        else:
            used, place = sum(stop - start for start, stop in self._spans), counted(len(self._spans), "sequence")
        text += f", {used:,} ({used / total:.0%}) used: in {place}"
        if "_pictures" in self.__dict__:
            constant = ((kind, share) for kind, share in self._constant.items() if share)
            text += "".join(f"; {share:.1%} of the {kind} are constant" for kind, share in constant)
        return text

    def _cut(self) -> None:
        """Find the clips, and check what is made of them."""
        self._clips, begin = [], 0
        for group in dict.fromkeys(group for group, _ in self._keys):  # each folder of pictures begins anew
            numbers = [number for other, number in self._keys if other == group]
            self._clips += [(begin + start, begin + stop) for start, stop in find_clips(numbers)]
            begin += len(numbers)
        if self.mode == "train":
            for partial, flag in list(self.shares.items()):
                self.check_share(partial, flag)
        else:
            self._spans = self._cut_validation()

    def _within(self, clips: list[tuple[int, int]], partial: float) -> list[tuple[int, int]]:
        limit = max(1, round(len(self._keys) * partial))
        return [(begin, min(end, limit)) for begin, end in clips if begin < limit]

    def _cut_validation(self) -> list[tuple[int, int]]:
        """Non-overlapping sequences of val_vi_len frames from every clip; a shorter clip is one sequence."""
        length, spans = self.val_vi_len, []
        for begin, end in self._clips:
            for start in range(begin, end, length):
                stop = min(start + length, end)
                if stop - start == length or (start == begin and stop - start > 1):
                    spans.append((start, stop))
        if not spans:
            raise InputError("the validation set has no two frames in a row; expected val/val_img/frame000000.png, …")
        return spans

    def _load(self, files: list[Path], name: str) -> Tensor:
        cache_dir = Path(self.cache_dir) if self.cache_dir else default_cache_dir()
        cached = cached_images(files, *self.size, cache_dir, self.workers, name)
        # copy-on-write pages of the cache: torch wants a writable array, the file stays as it is
        return torch.from_numpy(np.load(cached.filename, mmap_mode="c"))

    def _load_all(self, lists: dict[str, list[Path]]) -> tuple[dict[str, Tensor], set[Path]]:
        """Load every list whose pictures can all be read. Also returned: the pictures that cannot be, if they are to be
        skipped; else one InputError tells all of them."""
        loaded, faults, broken = {}, Faults(), set()
        for name, files in lists.items():
            try:
                loaded[name] = self._load(files, name)
            except UnreadableImages as error:
                error.add_to(faults)
                broken |= set(error.reasons)
        faults.settle(self.skip_bad, "pictures that can be read")
        return loaded, broken

    @cached_property
    def _pictures(self) -> tuple[Tensor, Tensor]:
        """Frames and poses (N, 3, H, W)."""
        kinds = {f"{self.mode}_img": self._frame_files, f"{self.mode}_label": self._pose_files}
        loaded, broken = self._load_all({name: [files[key] for key in self._keys] for name, files in kinds.items()})
        if broken:
            self._keys = [key for key in self._keys if broken.isdisjoint(files[key] for files in kinds.values())]
            if not self._keys:
                raise InputError(f"{self.folder}: no frame with a pose can be read; expected PNG pictures")
            self._cut()
            loaded, _ = self._load_all({name: [files[key] for key in self._keys] for name, files in kinds.items()})
        frames, poses = loaded.values()
        constant = {name: find_constant(pictures) for name, pictures in loaded.items()}
        shares = [warn_if_constant(pictures, constant[name], self.folder / name) for name, pictures in loaded.items()]
        self._constant = dict(zip(("frames", "poses"), shares, strict=True))
        show_again(poses, constant[f"{self.mode}_label"], self._clips)
        return frames, poses

    @cached_property
    def sequences(self) -> list[Sequence]:
        if self.mode != "test":
            self.decode()
            return [
                Sequence(f"val{i}", self.frames[start:stop], self.poses[start:stop],
                         tuple(number for _, number in self._keys[start:stop]))
                for i, (start, stop) in enumerate(self._spans)
            ]
        firsts = {f"test_img/{files.name}": [files.first] for files in self._tests}
        poses = {f"test_label/{files.name}": files.poses for files in self._tests}
        loaded, broken = self._load_all(firsts | poses)
        self._tests = [files for files in self._tests if files.first not in broken]
        for files in self._tests:
            name = f"test_label/{files.name}"
            if name not in loaded:  # in place of a pose the one before it, so that the sequence keeps its length
                good = [path for path in files.poses if path not in broken]
                if not good:
                    raise InputError(f"{self.folder / name}: no pose can be read; expected PNG pictures")
                stand_in, chosen = good[0], []
                for path in files.poses:
                    stand_in = stand_in if path in broken else path
                    chosen.append(stand_in)
                loaded[name] = self._load(chosen, name)
            constant = find_constant(loaded[name])
            warn_if_constant(loaded[name], constant, self.folder / name)
            show_again(loaded[name], constant, [(0, len(loaded[name]))])
        if not self._tests:
            raise InputError(f"{self.folder / 'test_img'}: no first frame can be read; expected PNG pictures")
        return [
            Sequence(files.name, loaded[f"test_img/{files.name}"], loaded[f"test_label/{files.name}"], files.numbers)
            for files in self._tests
        ]


def find_constant(pictures: Tensor) -> list[int]:
    """Which pictures (N, 3, H, W) show one colour only."""
    spreads = [part.flatten(2).amax(dim=2) - part.flatten(2).amin(dim=2) for part in pictures.split(4096)]  # (n, 3)
    return (torch.cat(spreads) <= CONSTANT).all(dim=1).nonzero().flatten().tolist()


def show_again(poses: Tensor, constant: list[int], clips: list[tuple[int, int]]) -> None:
    """In place of a pose that shows nobody the one before it in its clip [begin, end), as if he stood still: a blank
    picture would say that he has left. Not where most are of one colour: then these are no skeletons on white."""
    if 2 * len(constant) > len(poses):
        return
    begins = {begin for begin, _ in clips}
    for i in constant:
        if i not in begins:
            poses[i] = poses[i - 1]


def warn_if_constant(pictures: Tensor, constant: list[int], folder: Path) -> float:
    """The share of pictures (N, 3, H, W) that show one colour only; a warning if that is more than a few."""
    count, share = len(constant), len(constant) / len(pictures)
    if share > FEW_SHARE and (count > FEW or count == len(pictures)):
        part = f"{count:,} of {len(pictures):,} pictures ({share:.0%})"
        print(f"warning: {folder}: {part} show one colour only; are they as they should be?", file=sys.stderr)
    return share


def counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
