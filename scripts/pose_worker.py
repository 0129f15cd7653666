"""mediapipe's pose of every frame that comes in, for find_keypoints.py, which starts this in an environment of its own.

    python pose_worker.py WIDTH HEIGHT < frames > poses

In: frames as WIDTH x HEIGHT x 3 bytes, RGB. Out: a line of JSON a frame, [[x, y, visibility], …] of 33 joints in
pixels, or null where nobody was found. Neither the project's modules nor its packages are there.
"""

import json
import sys

import mediapipe
import numpy as np

width, height = map(int, sys.argv[1:])
# model 1 is the one inside the wheel; a person who was found is followed
pose = mediapipe.solutions.pose.Pose(model_complexity=1, smooth_landmarks=False)
while frame := sys.stdin.buffer.read(width * height * 3):
    found = pose.process(np.frombuffer(frame, np.uint8).reshape(height, width, 3)).pose_landmarks
    joints = found and [[point.x * width, point.y * height, point.visibility] for point in found.landmark]
    print(json.dumps(joints), flush=True)
