"""Find people's keypoints with torchvision's Keypoint R-CNN (He et al. 2017), where no detector has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from modules.pose.keypoints import stack, to_person
from modules.runtime import InputError

LEAST_SCORE = 0.7  # of a person's box


def load_detector(weights: Path | None) -> nn.Module:
    """The network on the device that there is. weights: its state_dict in a file; None: torchvision's own, which it
    downloads at the first use."""
    try:
        from torchvision.models import detection
    except ImportError as error:
        raise InputError(f"--estimate needs torchvision ({error!s:.100}); pip install torchvision") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if weights is None:
        chosen = detection.KeypointRCNN_ResNet50_FPN_Weights.DEFAULT
        try:
            model = detection.keypointrcnn_resnet50_fpn(weights=chosen)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{chosen.url}: cannot be downloaded ({error!s:.100}); --weights names a file") from None
        return model.eval().to(device)
    model = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # whatever a file that is no checkpoint makes the reader raise
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"--weights {weights}: not the weights of keypointrcnn_resnet50_fpn ({reason})") from None
    return model.eval().to(device)


@torch.inference_mode()
def estimate(model: nn.Module, pictures: Iterator[Image.Image]) -> Iterator[np.ndarray]:
    """The people of every picture, (n, J, 3) in its pixels. A joint's confidence is the sigmoid of its score."""
    device = next(model.parameters()).device
    for picture in pictures:
        frame = torch.from_numpy(np.array(picture)).to(device).permute(2, 0, 1).float() / 255
        found = model([frame])[0]
        chosen = found["scores"] >= LEAST_SCORE
        keypoints = found["keypoints"][chosen].clone()  # (n, 17, 3): x, y, visibility
        keypoints[..., 2] = found["keypoints_scores"][chosen].sigmoid()
        yield stack([to_person(one.ravel().tolist(), Path("--estimate")) for one in keypoints.cpu().numpy()])
