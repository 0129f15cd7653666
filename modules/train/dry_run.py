"""What a run would do, before it does it: its resolved flags and its schedules over the epochs, without any data."""

import argparse
import csv
import io
from pathlib import Path

from modules.files import write_text
from modules.show.curves import draw_schedules
from modules.train.schedules import annealing, data_share, learning_rate, teacher_forcing_ratio

COURSE_FRAMES = 23410  # training frames of the course: how many steps an epoch has decides where the rate's schedule is


def schedule_table(args: argparse.Namespace, frames: int = COURSE_FRAMES) -> list[dict[str, float]]:
    """A row per epoch with beta, tfr and the learning rate of its last step, as metrics.csv will have them.

    frames: of the training set, taken as one clip.
    """
    beta, steps = annealing(args), []
    for epoch in range(args.num_epoch):
        used = int(frames * data_share(args, epoch))
        steps.append(args.epoch_steps or max(1, used // args.train_vi_len // args.batch_size))
    rows = []
    for epoch in range(args.num_epoch):
        beta.current, last = epoch, sum(steps[: epoch + 1]) - 1
        lr = learning_rate(args.lr_schedule, args.lr, epoch, last, sum(steps), args.warmup_steps, args.lr_min)
        tfr = teacher_forcing_ratio(epoch, args.tfr, args.tfr_sde, args.tfr_d_step)
        rows.append({"epoch": epoch, "steps": steps[epoch], "beta": beta.get_beta(), "tfr": tfr, "lr": lr})
    return rows


def dry_run(args: argparse.Namespace) -> None:
    """Print the flags and write <save_root>/dry_run: beta.png, tfr.png, lr.png and schedules.csv."""
    for key, value in sorted(vars(args).items()):
        print(f"--{key} {value}")
    rows, folder = schedule_table(args), Path(args.save_root) / "dry_run"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "schedules.csv", text.getvalue())
    draw_schedules(rows, folder)
    print(f"{sum(row['steps'] for row in rows):,} optimizer steps with the course's {COURSE_FRAMES:,} training frames.")
    print(f"Wrote {folder}: schedules.csv, beta.png, tfr.png, lr.png. Nothing was trained.")
