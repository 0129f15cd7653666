"""The flags of both programs and the presets, which are named sets of ordinary flags.

Names and defaults of the course template's flags are kept; unique prefixes work (--ckpt for --ckpt_path).
"""

import argparse
import os

from modules.model.vae import ARCHITECTURES, PRIORS
from modules.train.schedules import KL_TYPES, kl_type

TEMPLATE = {
    "arch": "template", "batch_size": 2, "lr": 1e-3, "optim": "Adam", "num_epoch": 70, "train_vi_len": 16,
    "tfr": 1.0, "tfr_sde": 10, "tfr_d_step": 0.1, "kl_anneal_type": "Cyclical", "kl_anneal_cycle": 10,
    "kl_anneal_ratio": 1.0, "fast_train_epoch": 5, "windows": "template", "lr_schedule": "multistep",
}
# the highest score: docs/experiments.md says what each of these is for
BEST = {
    "arch": "multiscale", "F_dim": 96, "L_dim": 160, "N_dim": 12, "D_out_dim": 160, "loss": "calibrated",
    "kl_anneal_type": "Constant", "posterior_share": 0.25, "optim": "Muon", "lr": 5e-3, "lr_schedule": "cosine",
    "warmup_steps": 50, "weight_decay": 0.1, "ema": 0.05, "batch_size": 16, "train_vi_len": 2, "tfr": 0.0,
    "windows": "anywhere", "random_start": True, "persist": 0.5, "shift_down": 2, "shift_right": 12,
}
PRESETS = {
    # the course specification with the template's defaults
    "template": TEMPLATE,
    # the protocol of the report that this project starts from, so that its study can be repeated
    "report": TEMPLATE | {
        "batch_size": 4, "lr": 1e-4, "num_epoch": 61, "fast_train": True, "fast_train_epoch": 10, "fast_partial": 0.4,
        "posterior_share": 0.0, "tf_decides": "target", "kl_horizon": 16.0,
    },
    "best": BEST,
    # a latent that is used: samples that differ, for a lower score of the prior's mean
    "variety": BEST | {"posterior_share": 1.0, "prior": "learned"},
}


def one_of(*choices: str):
    return {"choices": choices, "metavar": "{" + ",".join(choices) + "}"}


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Flags that both programs use."""
    group = parser.add_argument_group("both programs")
    group.add_argument("--DR", help="data set: the folder that holds train/, val/ and test/ (not for --dry_run)")
    group.add_argument("--save_root", required=True, help="folder that everything is written to")
    group.add_argument("--ckpt_path", help="checkpoint: Trainer goes on from it, Tester predicts with it")
    group.add_argument("--device", choices=("cuda", "cpu"), help="default: CUDA if there is a GPU, else the CPU")
    group.add_argument("--precision", default="auto", **one_of("auto", "fp32", "bf16"),
                       help="of the networks; auto: bf16 where the hardware computes it; losses and frames are fp32")
    group.add_argument("--num_workers", type=positive, default=os.cpu_count(), help="threads that decode pictures")
    group.add_argument("--cache_dir", help="decoded pictures (default: ~/.cache/pose2video)")
    group.add_argument("--frame_H", type=positive, help="frame height in pixels (default: the checkpoint's, else 32)")
    group.add_argument("--frame_W", type=positive, help="frame width in pixels (default: the checkpoint's, else 64)")
    group.add_argument("--seed", type=natural, default=0, help="of everything random")
    group.add_argument("--pictures", default="all", **one_of("all", "strips", "none"),
                       help="strips: no GIFs and films of sequences, only strips of moments and curves; none: only "
                            "files of numbers")
    group.add_argument("--no_sanity", action="store_true",
                       help="skip the warning when a prediction scores below a trivial baseline")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Flags of the course template (Tester accepts them too) and of training."""
    group = parser.add_argument_group("the course template's flags")
    group.add_argument("--batch_size", type=positive, default=2, help="clips per optimizer step")
    group.add_argument("--lr", type=positive_float, default=1e-3, help="learning rate at its highest")
    group.add_argument("--optim", default="Adam", **one_of("Adam", "AdamW", "Muon"), help="optimizer")
    group.add_argument("--gpu", type=positive, default=1,
                       help="processes on this machine, one per GPU, each with --batch_size clips of one whole batch")
    group.add_argument("--test", action="store_true", help="only validate the checkpoint")
    group.add_argument("--store_visualization", action="store_true",
                       help="keep the GIF and the panel films of every validation, not only of the latest")
    group.add_argument("--num_epoch", type=positive, default=70, help="epochs of the whole run")
    group.add_argument("--per_save", type=positive, default=3, help="write epoch=N.ckpt every so many epochs")
    group.add_argument("--partial", type=share, default=1.0, help="leading share of the training frames to use")
    group.add_argument("--train_vi_len", type=two_or_more, default=16, help="frames of a training clip")
    group.add_argument("--val_vi_len", type=two_or_more, default=630, help="frames of a validation sequence")
    group.add_argument("--F_dim", type=positive, default=128, help="channels of the frame features")
    group.add_argument("--L_dim", type=positive, default=32, help="channels of the pose features")
    group.add_argument("--N_dim", type=positive, default=12, help="channels of the latent z")
    group.add_argument("--D_out_dim", type=positive, default=192, help="channels of the fused features")
    group.add_argument("--tfr", type=unit_float, default=1.0, help="teacher forcing ratio at the start")
    group.add_argument("--tfr_sde", type=positive, default=10, help="epochs between two decays of the ratio")
    group.add_argument("--tfr_d_step", type=unit_float, default=0.1, help="decay of the ratio")
    group.add_argument("--fast_train", action=argparse.BooleanOptionalAction, default=False,
                       help="train the first epochs on a share of the data (--no-fast_train: do not)")
    group.add_argument("--fast_partial", type=share, default=0.4, help="that share")
    group.add_argument("--fast_train_epoch", type=positive, default=5, help="the number of those epochs")
    group.add_argument("--kl_anneal_type", type=kl_type, default="Cyclical", metavar="{" + ",".join(KL_TYPES) + "}",
                       help="schedule of the KL weight beta; None: beta 0, Constant: --kl_beta throughout")
    group.add_argument("--kl_anneal_cycle", type=positive, default=10, help="cycles of Cyclical")
    group.add_argument("--kl_anneal_ratio", type=share, default=1.0, help="share of a cycle that the ramp fills")

    group = parser.add_argument_group("training")
    group.add_argument("--preset", default="best", **one_of(*PRESETS), help="a named set of flags; given flags win")
    group.add_argument("--arch", default="template", **one_of(*ARCHITECTURES), help="architecture of the five boxes")
    group.add_argument("--loss", default="mse", **one_of("mse", "calibrated"),
                       help="mse + beta KL (the course), or the calibrated decoder's D/2 log(mse) + beta KL")
    group.add_argument("--kl_beta", type=natural_float, default=1.0, help="the highest beta of every schedule")
    group.add_argument("--kl_horizon", type=positive_float, default=1.0,
                       help="length of the beta schedule, in --num_epoch")
    group.add_argument("--prior", default="standard", **one_of(*PRIORS),
                       help="p(z): N(0, I), or learned from the last frame and the pose")
    group.add_argument("--posterior_share", type=unit_float, default=1.0,
                       help="share of a batch whose z is drawn from the posterior; the others take the prior's mean. "
                            "0: all draw from the prior, the posterior only has its KL (the report)")
    group.add_argument("--tf_decides", default="feed", **one_of("feed", "target"),
                       help="teacher forcing decides what is fed; or, as in the report, what the target is: the true "
                            "frame, or without it the previously generated one")
    group.add_argument("--tf_per", default="epoch", **one_of("epoch", "sample"),
                       help="one coin of probability tfr per epoch, or per clip and frame")
    group.add_argument("--windows", default="anywhere", **one_of("anywhere", "template"),
                       help="training clips start anywhere, shuffled; or one after the other as in the template")
    group.add_argument("--random_start", action=argparse.BooleanOptionalAction, default=False,
                       help="draw each clip's first frame from anywhere in its sequence (with --windows anywhere; "
                            "--no-random_start: it is the window's first)")
    group.add_argument("--persist", type=unit_float, default=0.0,
                       help="chance that a clip goes on from its own last generated frame in the next step")
    group.add_argument("--shift_down", type=natural, default=0, help="move clips up or down by up to so many pixels")
    group.add_argument("--shift_right", type=natural, default=0, help="the same to the left or right")
    group.add_argument("--pose_erase", type=unit_float, default=0.0,
                       help="chance that a box of a clip's pose pictures is blank, as where a detector misses limbs")
    group.add_argument("--lr_schedule", default="cosine", **one_of("cosine", "multistep", "constant"),
                       help="multistep: x 0.1 from epoch 2 and again from epoch 5")
    group.add_argument("--lr_min", type=natural_float, default=1e-6, help="last learning rate of cosine")
    group.add_argument("--warmup_steps", type=natural, default=0, help="steps of linear rise to --lr")
    group.add_argument("--weight_decay", type=natural_float, default=0.0, help="of the optimizer")
    group.add_argument("--ema", type=unit_float, default=0.0,
                       help="predict with weights averaged over the last such share of the run; 0: do not average")
    group.add_argument("--clip_norm", type=positive_float, default=1.0, help="largest norm of the gradient")
    group.add_argument("--epoch_steps", type=positive, help="optimizer steps per epoch (default: about one pass)")
    group.add_argument("--val_every", type=positive, default=1, help="epochs between two validations")
    group.add_argument("--compile", action="store_true",
                       help="fuse the networks with torch.compile: minutes at the start; slower on the CPUs measured")
    group.add_argument("--tensorboard", action="store_true",
                       help="also write scalars, strips and curves for TensorBoard to --save_root/tensorboard")
    group.add_argument("--dry_run", action="store_true",
                       help="print the resolved flags and write the schedules' curves to --save_root/dry_run; no data")
    group.add_argument("--save_minutes", type=positive_float, default=10.0,
                       help="minutes between two saves within an epoch; last.ckpt is also written after every epoch")
    group.add_argument("--max_bad_steps", type=positive, default=20,
                       help="stop after so many steps in a row whose loss or gradient is not finite; such steps are "
                            "skipped")
    group.add_argument("--overwrite", action="store_true",
                       help="start anew in a --save_root that holds a run; the old run is kept aside")


def parse_trainer(argv: list[str] | None = None) -> argparse.Namespace:
    """Trainer.py's flags. The preset's values are defaults: a flag on the command line wins."""
    parser = argparse.ArgumentParser(
        "Trainer.py", description="Train a conditional VAE that predicts video from poses.", formatter_class=Defaults
    )
    add_shared(parser)
    add_training(parser)
    preset = parser.parse_args(argv).preset
    parser.set_defaults(**PRESETS[preset])
    args = parser.parse_args(argv)
    if not args.DR and not args.dry_run:
        parser.error("the following arguments are required: --DR")
    return args


def parse_tester(argv: list[str] | None = None) -> argparse.Namespace:
    """Tester.py's flags. The template's training flags are accepted, so that its command lines go on working."""
    parser = argparse.ArgumentParser(
        "Tester.py",
        description="Predict every test sequence from its first frame and its poses, score it, draw it.",
        formatter_class=Defaults,
    )
    add_shared(parser)
    group = parser.add_argument_group("prediction")
    group.add_argument("--gt", help="true frames: a folder of <i>/*.png or GT<i>.csv, or Kaggle's gt.csv")
    group.add_argument("--submission", action="store_true", help="write the course's submission.csv")
    group.add_argument("--num_samples", type=natural, default=0,
                       help="draw so many latents per sequence; 0: the prior's mean")
    group.add_argument("--no_baselines", action="store_true",
                       help="skip the trivial baselines, two of which read the training set")
    group.add_argument("--make_gif", action="store_true", help="also write pred_seq<i>.gif to --save_root")
    known, rest = parser.parse_known_args(argv)
    if not known.DR:
        parser.error("the following arguments are required: --DR")
    ignored = argparse.ArgumentParser("Tester.py", add_help=False)
    add_training(ignored)
    ignored.parse_args(rest)
    if rest:
        print(f"Not used in prediction, the checkpoint decides: {' '.join(arg for arg in rest if arg[:2] == '--')}")
    return known


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, but not of switches or of flags without one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) or action.required else super()._get_help_string(action)


def number(kind: type, low: float, high: float, low_open: bool = False):
    """An argparse type: a `kind` within [low, high], or (low, high] with low_open."""

    def parse(text: str):
        value = kind(text)
        if not (low < value if low_open else low <= value) or not value <= high:
            raise argparse.ArgumentTypeError(f"{text} is outside {'(' if low_open else '['}{low}, {high}]")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


positive, natural, two_or_more = number(int, 1, 10**9), number(int, 0, 2**62), number(int, 2, 10**9)
positive_float, natural_float = number(float, 0, 1e9, low_open=True), number(float, 0, 1e9)
unit_float, share = number(float, 0, 1), number(float, 0, 1, low_open=True)
