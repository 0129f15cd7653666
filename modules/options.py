"""The flags of both programs and the presets, which are named sets of ordinary flags.

Names, defaults and unique prefixes (--ckpt for --ckpt_path) of the course template's flags are kept. Nothing here
imports torch: --help and an error in a flag need not wait for it.
"""

import argparse
import difflib
import os
import shlex
import sys
from collections.abc import Callable, Iterable

from modules.model import ARCHITECTURES, PRIORS
from modules.runtime import InputError

# the course template's flags in all its years, see add_template_flags; Tester has its own two
COURSE_TRAINER = frozenset("""
    batch_size lr device optim gpu test store_visualization DR save_root num_workers num_epoch per_save partial
    train_vi_len val_vi_len frame_H frame_W F_dim L_dim N_dim D_out_dim tfr tfr_sde tfr_d_step ckpt_path fast_train
    fast_partial fast_train_epoch kl_anneal_type kl_anneal_cycle kl_anneal_ratio
""".split())  # noqa: SIM905
COURSE_TESTER = COURSE_TRAINER - {"store_visualization"} | {"no_sanity", "make_gif"}

# choices of training, each measured in docs/experiments.md
TRAINING = {
    "loss": "calibrated", "kl_anneal_type": "Constant", "posterior_share": 1.0, "posterior_end": 0.6, "optim": "Muon",
    "lr": 5e-3, "lr_schedule": "cosine", "warmup_steps": 50, "weight_decay": 0.2, "ema": 0.05, "tfr": 0.0,
    "windows": "anywhere", "random_start": True, "bounded": True,
}
BEST = TRAINING | {
    "arch": "multiscale", "F_dim": 96, "L_dim": 160, "N_dim": 12, "D_out_dim": 160, "prior": "learned",
    "batch_size": 16, "train_vi_len": 2, "shift_down": 2, "shift_right": 12, "best_by": "bound",
}
PRESETS = {  # what differs from the flags' own defaults, which are the course template's
    "best": BEST,  # the highest score
    # the prior is trained on the last two frames, so that what poses do not show moves on from frame to frame
    "recursive": BEST | {"prior": "learned2", "last_frame": "previous", "last_mix": 0.7},
    # the course's network, to the letter, trained as well as it can be
    "course": TRAINING | {"batch_size": 4, "train_vi_len": 3, "last_noise": 0.1},
    # the course specification with the template's defaults
    "template": {},
    # the protocol of the report that this project starts from, so that its study can be repeated
    "report": {
        "batch_size": 4, "lr": 1e-4, "num_epoch": 61, "fast_train": True, "fast_train_epoch": 10,
        "tfr_rule": "interval", "z_from": "prior", "tf_decides": "target", "kl_horizon": 16.0,
    },
}

KL_TYPES = ("Cyclical", "Monotonic", "None", "Constant")
SPELLINGS = {**{kind.lower(): kind for kind in KL_TYPES}, "cycle": "Cyclical", "cyclic": "Cyclical",
             "linear": "Monotonic", "no": "None", "without": "None"}


def kl_type(name: str) -> str:
    """The canonical name of a KL annealing type from any spelling in use. InputError for others."""
    if str(name).lower() not in SPELLINGS:
        raise InputError(f"--kl_anneal_type {name}: expected one of {', '.join(KL_TYPES)}")
    return SPELLINGS[str(name).lower()]


def number(kind: type, low: float, high: float, low_open: bool = False) -> Callable[[str], float]:
    """An argparse type: a `kind` within [low, high], or (low, high] with low_open."""

    def parse(text: str):
        value = kind(text)
        if not (low < value if low_open else low <= value) or not value <= high:
            most = f", at most {high}" * (high < 10**9)
            raise argparse.ArgumentTypeError(f"{text}; expected {'more than' if low_open else 'at least'} {low}{most}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


positive, natural, two_or_more = number(int, 1, 10**9), number(int, 0, 2**62), number(int, 2, 10**9)
positive_float, natural_float = number(float, 0, 1e9, low_open=True), number(float, 0, 1e9)
unit_float, share = number(float, 0, 1), number(float, 0, 1, low_open=True)


def one_of(*choices: str) -> dict:
    """Keyword arguments of a flag whose value is one of these names, in any case."""
    names = {choice.lower(): choice for choice in choices}
    metavar = "{" + ",".join(choices) + "}"
    return {"type": lambda text: names.get(text.lower(), text), "choices": choices, "metavar": metavar}


def path_name(text: str) -> str:
    """A path: not empty, which would mean the working directory, and without invisible characters; ~ is the home."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name; expected a path")
    if any(ord(letter) < 32 for letter in text):
        raise argparse.ArgumentTypeError(f"{text!r}: holds control characters (a script with Windows line ends?)")
    return os.path.expanduser(text)


class Parser(argparse.ArgumentParser):
    """Errors are one line. A prefix stands for a flag of the course template if it is unique among the template's
    flags; our own flags are written out, so that new ones change the meaning of no command line."""

    def __init__(self, program: str, description: str, course: frozenset[str], add_help: bool = True):
        super().__init__(program, description=description, formatter_class=Defaults, add_help=add_help)
        self.course = {f"--{name}" for name in course}

    def error(self, message: str) -> None:
        word = message.rpartition("arguments: ")[2].split()[0].partition("=")[0]
        names = {name.lower(): name for name in self._option_string_actions} if word[:2] == "--" else {}
        near = [names[name] for name in difflib.get_close_matches(word.lower(), names, 2, cutoff=0.7)]
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all flags"
        raise InputError(f"{message} ({hint})")

    def _get_option_tuples(self, option_string: str) -> list:
        return [match for match in super()._get_option_tuples(option_string) if match[1] in self.course]


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, but not of switches or of flags without one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def add_shared(parser: argparse.ArgumentParser, checkpoints: str | None = None) -> None:
    """Flags that both programs use. checkpoints: how many --ckpt_path takes, as argparse's nargs."""
    add = parser.add_argument_group("both programs").add_argument
    add("--DR", type=path_name, help="data set: the folder that holds train/, val/ and test/")
    add("--save_root", type=path_name, help="folder that everything is written to")
    add("--ckpt_path", type=path_name, nargs=checkpoints, metavar="CKPT",
        help="checkpoint. Tester: predict with it; with several, the mean of their predictions. Trainer: a checkpoint "
             "in --save_root is resumed, one from elsewhere gives a new run its weights")
    add("--device", type=str.lower, help="cpu, cuda, cuda:N, mps, … (default: what torch finds, else cpu)")
    add("--precision", default="auto", **one_of("auto", "fp32", "bf16"),
        help="of the networks; auto: bf16 where the hardware computes it; losses and frames are fp32")
    add("--num_workers", type=natural, default=os.cpu_count(), help="threads that decode images; 0: as 1")
    add("--skip_bad", action="store_true", help="leave out images without a partner and unreadable ones, as cuts")
    add("--cache_dir", type=path_name, help="folder for decoded images (default: ~/.cache/pose2video)")
    add("--frame_H", type=positive, help="frame height in pixels (default: the checkpoint's, else 32)")
    add("--frame_W", type=positive, help="frame width in pixels (default: the checkpoint's, else 64)")
    add("--seed", type=natural, default=0, help="seed of everything random")
    add("--pictures", default="all", **one_of("all", "strips", "none"),
        help="strips: no GIFs and videos of sequences, only strips of frames and curves; none: only files of numbers")
    add("--fps", type=positive_float, help="frames a second of videos and GIFs (default: DR/info.json, else 20)")
    add("--no_sanity", action="store_true", help="skip the warning when a prediction scores below a trivial baseline")


def add_template_flags(parser: argparse.ArgumentParser) -> None:
    """The course template's other flags, with its defaults."""
    add = parser.add_argument_group("the course template's flags").add_argument
    add("--batch_size", type=positive, default=2, help="clips per optimizer step")
    add("--lr", type=positive_float, default=1e-3, help="learning rate at its highest")
    add("--optim", default="Adam", **one_of("Adam", "AdamW", "Muon"), help="optimizer")
    add("--gpu", type=natural, default=1, help="GPUs to train on; above 1: print the torchrun command; 0: as 1")
    add("--test", action="store_true", help="only validate the checkpoint")
    add("--store_visualization", action="store_true", help="keep the GIF and videos of every validation")
    add("--num_epoch", type=number(int, 1, 10**6), default=70, help="epochs of the whole run")
    add("--per_save", type=natural, default=3, help="write epoch=N.ckpt every so many epochs; 0: after the last")
    add("--partial", type=share, default=1.0, help="leading share of the training frames to use")
    add("--train_vi_len", type=two_or_more, default=16, help="frames of a training clip")
    add("--val_vi_len", type=two_or_more, default=630, help="frames of a validation sequence")
    add("--F_dim", type=positive, default=128, help="channels of the frame features")
    add("--L_dim", type=positive, default=32, help="channels of the pose features")
    add("--N_dim", type=positive, default=12, help="channels of the latent z")
    add("--D_out_dim", type=positive, default=192, help="channels of the fused features")
    add("--tfr", type=unit_float, default=1.0, help="teacher forcing ratio at the start")
    add("--tfr_sde", type=natural, default=10, help="the last epoch, from 0, before the ratio falls, see --tfr_rule")
    add("--tfr_d_step", type=natural_float, default=0.1, help="decay of the ratio")
    add("--fast_train", action=argparse.BooleanOptionalAction, default=False, help="first epochs: a share of the data")
    add("--fast_partial", type=share, default=0.4, help="that share")
    add("--fast_train_epoch", type=natural, default=5, help="the number of those epochs")
    add("--kl_anneal_type", type=kl_type, default="Cyclical", metavar="{" + ",".join(KL_TYPES) + "}",
        help="schedule of the KL weight beta; None: beta 0, Constant: --kl_beta throughout")
    add("--kl_anneal_cycle", type=positive, default=10, help="cycles of Cyclical")
    add("--kl_anneal_ratio", type=positive_float, default=1.0,
        help="share of a cycle that the ramp fills; above 1 the ramp is cut off at the end of its cycle")


def add_training(parser: argparse.ArgumentParser) -> None:
    """The flags of training that are our own."""
    add = parser.add_argument_group("training").add_argument
    add("--preset", default="best", **one_of(*PRESETS), help="a named set of flags; given flags win")
    add("--arch", default="template", **one_of(*ARCHITECTURES), help="architecture of the five networks")
    add("--loss", default="mse", **one_of("mse", "calibrated"),
        help="mse + beta KL (the course), or the calibrated decoder's D/2 log(mse) + beta KL")
    add("--kl_beta", type=natural_float, default=1.0, help="the highest beta of every schedule")
    add("--kl_horizon", type=positive_float, default=1.0, help="length of the beta schedule, in --num_epoch")
    add("--prior", default="standard", **one_of(*PRIORS),
        help="p(z): N(0, I), or learned from the pose and the last frame or two (--arch multiscale: their only use)")
    add("--z_from", default="posterior", **one_of("posterior", "prior"),
        help="what z is drawn from in training; prior: for every clip, the posterior only enters the KL (the report)")
    add("--posterior_share", type=share, default=1.0,
        help="share of a batch whose z is drawn from the posterior; the other clips take the prior's mean")
    add("--posterior_end", type=share,
        help="posterior share at the end of the run, linear in between (default: --posterior_share)")
    add("--tfr_rule", default="start", **one_of("start", "interval"),
        help="start: --tfr_d_step less in every epoch after epoch --tfr_sde; interval: every --tfr_sde epochs (report)")
    add("--tf_decides", default="feed", **one_of("feed", "target"),
        help="an epoch has the true frame with probability tfr as its input or, as in the report, as its target")
    add("--windows", default="template", **one_of("anywhere", "template"),
        help="training clips start anywhere, shuffled; or one after the other as in the template")
    add("--random_start", action=argparse.BooleanOptionalAction, default=False,
        help="draw each clip's x_1 from anywhere in its sequence (with --windows anywhere)")
    add("--last_frame", default="x_1", **one_of("x_1", "previous"),
        help="the last frame that a clip begins with: x_1, or the true previous frame (with --windows anywhere)")
    add("--last_noise", type=natural_float, default=0.0, metavar="N",
        help="coarse noise on the last frames that a clip begins with (frames: [0, 1]): its standard deviation is N s, "
             "s is drawn from [0, 1] for each clip")
    add("--last_mix", type=unit_float, default=0.0, metavar="A",
        help="x_1 mixed into these frames, patch by patch: its share is min(1, A s |e|), e is coarse N(0, 1) noise")
    add("--bounded", action=argparse.BooleanOptionalAction, default=False,
        help="clamp a generated frame to [0, 1] before it is fed back, in training and in prediction")
    add("--shift_down", type=natural, default=0,
        help="move clips up or down by up to so many pixels of a 32x64 frame; larger frames: as many times more")
    add("--shift_right", type=natural, default=0, help="the same to the left or right")
    add("--lr_schedule", default="multistep", **one_of("cosine", "multistep", "constant"),
        help="multistep: x 0.1 from epoch 2 and again from epoch 5")
    add("--warmup_steps", type=natural, default=0, help="steps of linear rise to --lr")
    add("--weight_decay", type=natural_float, default=0.0, help="of the optimizer")
    add("--ema", type=unit_float, default=0.0,
        help="predict with an exponential moving average of the weights, over this last share of the run; 0: without")
    add("--clip_norm", type=natural_float, default=1.0, help="largest norm of the gradient; 0: any")
    add("--epoch_steps", type=positive, help="optimizer steps per epoch (default: about one pass)")
    add("--best_by", default="psnr", **one_of("psnr", "bound"),
        help="best.ckpt has the highest PSNR of the prior's mean, or the highest bound of log p (a second rollout)")
    add("--val_every", type=natural, default=1, help="epochs between two validations; 0: only after the last epoch")
    add("--save_minutes", type=natural_float, default=10.0,
        help="minutes between two saves within an epoch; last.ckpt is also written after every epoch. 0: only then")


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """The Tester's own flags."""
    add = parser.add_argument_group("prediction").add_argument
    add("--gt", type=path_name, help="true frames: a folder of <i>/*.png or GT<i>.csv")
    add("--submission", action="store_true", help="write submission.csv, also where the test set is not the course's")
    add("--num_samples", type=natural, default=0, help="draw so many latents per sequence; 0: the prior's mean")
    add("--no_baselines", action="store_true",
        help="skip the trivial baselines, two of which read the training set")
    add("--make_gif", action="store_true", help="also write pred_seq<i>.gif to --save_root (with --pictures all)")


def trainer_parser(preset: str = "best") -> Parser:
    """Trainer.py's flags, with a preset's values as their defaults."""
    parser = Parser("Trainer.py", "Train a conditional VAE that predicts video from poses.", COURSE_TRAINER)
    add_shared(parser)
    add_template_flags(parser)
    add_training(parser)
    parser.set_defaults(**PRESETS[preset])
    return parser


def tester_parser() -> Parser:
    """Tester.py's flags. The training flags are accepted and not shown, so that the template's command lines work."""
    parser = Parser(
        "Tester.py", "Predict every test sequence from its first frame and its poses, score it, draw it.", COURSE_TESTER
    )
    add_shared(parser, checkpoints="+")
    add_prediction(parser)
    shown = set(parser._actions)
    add_template_flags(parser)
    add_training(parser)
    for action in parser._actions:
        if action not in shown:
            action.help = argparse.SUPPRESS
    return parser


def parse(parser: Parser, argv: list[str] | None) -> argparse.Namespace:
    """Parsed flags; `given` holds the names of those on the command line."""
    args = parser.parse_args(argv)
    for name, what in (("DR", "the data set, the folder that holds train/, val/ and test/"),
                       ("save_root", "the folder that everything is written to")):
        if not getattr(args, name):  # not argparse's `required`, which hides that a flag was misspelt
            raise InputError(f"--{name} is needed: {what}")
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    parser._defaults.clear()
    args.given = sorted(vars(parser.parse_args(argv)))  # a list, so that vars(args) is JSON
    return args


def parse_trainer(argv: list[str] | None = None) -> argparse.Namespace:
    """Trainer.py's flags, complete. The preset's values are defaults: a flag on the command line wins."""
    first = Parser("Trainer.py", "", frozenset(), add_help=False)
    first.add_argument("--preset", default="best", **one_of(*PRESETS))
    args = parse(trainer_parser(first.parse_known_args(argv)[0].preset), argv)
    args.frame_H, args.frame_W = args.frame_H or 32, args.frame_W or 64
    if args.posterior_end is None or ("posterior_share" in args.given and "posterior_end" not in args.given):
        args.posterior_end = args.posterior_share
    if args.test and not args.ckpt_path:
        raise InputError("--test validates a checkpoint: give it with --ckpt_path")
    if args.tfr_rule == "interval" and args.tfr_sde < 1:
        raise InputError("--tfr_sde 0: with --tfr_rule interval it is a number of epochs; expected at least 1")
    if args.gpu > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets it
        command = shlex.join(sys.argv[1:] if argv is None else argv)
        raise InputError(f"--gpu {args.gpu}: start it with: torchrun --nproc_per_node {args.gpu} Trainer.py {command}")
    for name, why in without_effect(args):
        if name not in COURSE_TRAINER:
            raise InputError(f"--{name} has no effect {why}; leave it out, or change that flag")
    return args


def parse_tester(argv: list[str] | None = None) -> argparse.Namespace:
    """Tester.py's flags; `unused`: the names of the training flags that were given."""
    parser = tester_parser()
    training = [action.dest for action in parser._actions if action.help == argparse.SUPPRESS]
    args = parse(parser, argv)
    args.unused = [name for name in training if name in args.given]
    if not args.ckpt_path:
        raise InputError("--ckpt_path is needed: the checkpoint to predict with, e.g. runs/best/best.ckpt")
    return args


def without_effect(args: argparse.Namespace) -> Iterable[tuple[str, str]]:
    """The flags on the command line that change nothing under the other flags, each with the reason."""
    template_order = args.windows == "template"
    one_step = args.train_vi_len == 2 and args.tf_decides == "feed"
    rules = (
        (("random_start", "shift_down", "shift_right", "last_frame", "last_noise"), template_order,
         "with --windows template"),
        (("last_mix",), args.last_frame == "x_1", "with --last_frame x_1"),
        (("last_frame", "last_noise", "last_mix"), args.arch == "multiscale" and args.prior == "standard",
         "with --prior standard"),
        (("posterior_share", "posterior_end"), args.z_from == "prior", "with --z_from prior"),
        (("tfr_rule", "tfr_sde", "tfr_d_step"), args.tfr == 0, "with --tfr 0"),
        (("tfr", "tfr_rule", "tfr_sde", "tfr_d_step"), one_step and args.tfr > 0,
         "with --train_vi_len 2: a clip's only predicted frame is fed its first frame either way"),
        (("kl_beta",), args.kl_anneal_type == "None", "with --kl_anneal_type None"),
        (("kl_horizon",), args.kl_anneal_type in ("None", "Constant"), f"with --kl_anneal_type {args.kl_anneal_type}"),
        (("kl_anneal_cycle", "kl_anneal_ratio"), args.kl_anneal_type != "Cyclical",
         f"with --kl_anneal_type {args.kl_anneal_type}"),
        (("fast_partial", "fast_train_epoch"), not args.fast_train, "without --fast_train"),
    )
    for names, idle, why in rules:
        if idle:
            yield from ((name, why) for name in names if name in args.given)
