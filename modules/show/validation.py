"""What a validation leaves behind: first its scores, then, once they are safe, its pictures."""

from pathlib import Path

from torch import Tensor

from modules.data.sequence import Sequence
from modules.files import write_json
from modules.score.baselines import warn_if_below_first_frame
from modules.score.metrics import score
from modules.show.panels import Film
from modules.show.pictures import FILMS_OF_TRAINING, draw, scores_job, sequence_jobs, to_images


def score_validation(
    root: Path, epoch: int, sequences: list[Sequence], predicted: list[Tensor], warn: bool
) -> tuple[float, dict[str, list[float]]]:
    """Score predicted sequences, each (1, T, 3, H, W) in [0, 1], and write root/validation.json.

    warn: compare with the first frame repeated. Returns the mean over the sequences of their mean PSNR, and the PSNR of
    every predicted frame by sequence, both in dB.
    """
    scores = {s.name: score(p, s.frames)[0].tolist() for s, p in zip(sequences, predicted, strict=True)}
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    average = sum(means.values()) / len(means)
    print(f"epoch {epoch}: validation PSNR {average:.3f} dB")
    write_json(root / "validation.json", {"epoch": epoch, "psnr_per_frame": scores})
    if warn:
        warn_if_below_first_frame(means, {s.name: s.frames for s in sequences})
    return average, scores


def draw_validation(
    root: Path, epoch: int, sequences: list[Sequence], predicted: list[Tensor], scores: dict[str, list[float]],
    train_vi_len: int, pictures: str, keep_all: bool, films: bool,
) -> None:
    """Draw what people look at to root/figures, of the first FILMS_OF_TRAINING sequences. scores: of score_validation.

    pictures: --pictures; keep_all: files of this epoch beside those of others; films: not only gif and strip.
    """
    if pictures == "none":
        return
    figures, ending = root / "figures", f"_epoch={epoch}" if keep_all else ""
    jobs = [scores_job([(scores, figures / "psnr_per_frame.png", "validation", train_vi_len)])]
    for sequence, frames in list(zip(sequences, predicted, strict=True))[:FILMS_OF_TRAINING]:
        film = Film(
            sequence.name, to_images(frames[0]), to_images(sequence.poses), to_images(sequence.frames),
            scores[sequence.name],
        )
        gifs = {figures / f"validation{ending}.gif": film.prediction} if sequence is sequences[0] else {}
        jobs += sequence_jobs(film, figures / f"{sequence.name}{ending}", gifs, pictures, films)
    if films and len(sequences) > FILMS_OF_TRAINING:
        print(f"Pictures of the first {FILMS_OF_TRAINING} of {len(sequences)} validation sequences: {figures}")
    draw(jobs)
