#!/usr/bin/env bash
# From nothing to predicted videos: bash scripts/demo.sh [--pretrained] [DR]
# Installs, draws the project's own data set (or uses the data set DR), trains for about ten minutes on two CPU cores,
# predicts and scores the test sequences, and names the pictures to look at. Run again, it goes on where it stopped.
# --pretrained predicts with the model that comes with the project, without training, in about a minute.
# VENV=path reuses an environment, RUN=path names the folder of the run, SEED=n the seed.
set -euo pipefail
PRETRAINED=
if [ "${1:-}" = --pretrained ]; then
    PRETRAINED=docs/pretrained/dancer.ckpt
    shift
fi
if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
    echo "usage: bash scripts/demo.sh [--pretrained] [DR]" >&2
    exit 2
fi
DR="${1:+$(realpath "$1")}"
VENV="${VENV:+$(realpath -ms "$VENV")}"
cd "$(dirname "$0")/.."
set --  # setup.sh would take them for packages
source scripts/setup.sh
python="$VENV/bin/python"

if [ -z "$DR" ]; then
    DR=data/dancer
    [ -d "$DR" ] || "$python" scripts/make_dataset.py "$DR"
fi
RUN="${RUN:-runs/demo${PRETRAINED:+-pretrained}-$(basename "$DR")}"

[ -n "$PRETRAINED" ] || "$python" Trainer.py --DR "$DR" --save_root "$RUN" --seed "${SEED:-0}" --num_epoch 16 --epoch_steps 250 --val_every 8
"$python" Tester.py --DR "$DR" --save_root "$RUN/test" --ckpt_path "${PRETRAINED:-$RUN/best.ckpt}"

echo
echo "Look at:"
for picture in "$RUN"/figures/{loss_curve,val_psnr,psnr_per_frame}.png "$RUN"/test/seq*/{panel.png,panel.mp4,pred_seq.gif}; do
    [ ! -e "$picture" ] || echo "  $picture"
done
