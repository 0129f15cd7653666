#!/usr/bin/env bash
# From nothing to predicted videos: bash scripts/demo.sh [DR]
# Installs, draws the project's own data set (or uses the data set DR), trains for about ten minutes on two CPU cores,
# predicts and scores the test sequences, and names the pictures to look at. Run again, it goes on where it stopped.
# VENV=path reuses an environment, RUN=path names the folder of the run, SEED=n the seed.
set -euo pipefail
DR="${1:+$(realpath "$1")}"
cd "$(dirname "$0")/.."
source scripts/setup.sh
python="$VENV/bin/python"

if [ -z "$DR" ]; then
    DR=data/dancer
    [ -d "$DR" ] || "$python" scripts/make_dataset.py "$DR"
fi
RUN="${RUN:-runs/demo-$(basename "$DR")}"

"$python" Trainer.py --DR "$DR" --save_root "$RUN" --seed "${SEED:-0}" --num_epoch 20 --epoch_steps 250 --val_every 4
"$python" Tester.py --DR "$DR" --save_root "$RUN/test" --ckpt_path "$RUN/best.ckpt"

echo
echo "Look at:"
for picture in "$RUN"/figures/{loss_curve,val_psnr,psnr_per_frame}.png "$RUN"/figures/validation.gif "$RUN"/test/seq*/pred_seq.gif; do
    echo "  $picture"
done
