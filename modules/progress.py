"""The progress of long work: a bar in a terminal, a line every 30 seconds elsewhere."""

import os
import sys

from tqdm import tqdm

LINE_SECONDS = 30  # between two lines where there is no terminal
NOTEBOOKS = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "JPY_PARENT_PID")  # their cells keep all that is drawn


class Progress(tqdm):
    """A tqdm over `total` units of work. Where stderr is no terminal, or a notebook's cell, it writes whole lines."""

    hidden = False  # True in processes that print nothing
    lines = False

    def __init__(self, title: str, total: int, unit: str, initial: int = 0, leave: bool = True):
        self.lines = not sys.stderr.isatty() or any(name in os.environ for name in NOTEBOOKS)
        super().__init__(
            desc=title, total=total, unit=unit, initial=initial, leave=leave, disable=self.hidden,
            position=0 if self.lines else None, dynamic_ncols=not self.lines,
            mininterval=LINE_SECONDS if self.lines else 0.1, maxinterval=LINE_SECONDS if self.lines else 10,
            bar_format="{desc}: {n_fmt}/{total_fmt} {unit}s, {elapsed}<{remaining}{postfix}" if self.lines else None,
        )

    def status_printer(self, file):
        """How tqdm shows a state: as a line from the first step on."""
        if self.lines:
            return lambda text: file.write(f"{text}\n" * (self.n > self.initial))
        return super().status_printer(file)

    def close(self) -> None:
        if self.lines and not self.disable:
            if self.leave:
                self.fp.write(f"{self}\n")
            self.sp = None  # what tqdm would write makes empty lines
        super().close()

    def say(self, text: str) -> None:
        """Show a text after the bar, from the next time it is drawn."""
        self.set_postfix_str(text, refresh=False)
