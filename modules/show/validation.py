"""What a validation leaves behind: its score, its figures, its films."""

from pathlib import Path

from torch import Tensor

from dataloader import Sequence
from modules.files import write_json
from modules.score.predict import score, warn_if_below_baseline
from modules.show.figures import draw_psnr_per_frame
from modules.show.panels import write_panels
from modules.show.video import save_gif


def write_validation(
    root: Path, epoch: int, sequences: list[Sequence], predicted: list[Tensor], train_vi_len: int,
    keep_all: bool, last: bool, warn: bool,
) -> float:
    """Score predicted sequences, each (1, T, 3, H, W) in [0, 1], and write what people look at to root/figures.

    keep_all: films of this epoch beside those of others; last: films too, not only gif and strip; warn: compare with
    the first frame repeated. Returns the mean over the sequences of their mean PSNR in dB.
    """
    scores = {s.name: score(p, s.frames)[0].numpy() for s, p in zip(sequences, predicted, strict=True)}
    average = float(sum(values.mean() for values in scores.values()) / len(scores))
    print(f"epoch {epoch}: validation PSNR {average:.3f} dB")
    figures = root / "figures"
    frame_scores = {name: values.clip(max=100).tolist() for name, values in scores.items()}
    write_json(root / "validation.json", {"epoch": epoch, "psnr_per_frame": frame_scores})
    draw_psnr_per_frame(scores, figures / "psnr_per_frame.png", train_vi_len)
    name = f"validation_epoch={epoch}.gif" if keep_all else "validation.gif"
    save_gif(figures / name, predicted[0][0])
    for sequence, frames in zip(sequences, predicted, strict=True):
        stem = figures / name.replace("validation", sequence.name).removesuffix(".gif")
        write_panels(stem, frames[0], sequence.poses, sequence.frames, last or keep_all)
    if warn and last:
        warn_if_below_baseline(scores, {s.name: s.frames for s in sequences})
    return average
