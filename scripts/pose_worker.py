"""mediapipe's pose of every frame that comes in. find_keypoints.py starts this in an environment of its own, which has
none of the project's packages.

    python pose_worker.py WIDTH HEIGHT < frames > poses

In: frames as WIDTH x HEIGHT x 3 bytes, RGB. Out: a line of JSON a frame, [[x, y, visibility], …] of 33 joints in
pixels, [] where nobody was found.
"""

import json
import sys

import mediapipe
import numpy as np

width, height = map(int, sys.argv[1:])
pose = mediapipe.solutions.pose.Pose(smooth_landmarks=False)  # of the three models the one inside the wheel
while frame := sys.stdin.buffer.read(width * height * 3):
    found = pose.process(np.frombuffer(frame, np.uint8).reshape(height, width, 3)).pose_landmarks
    points = found.landmark if found else []
    print(json.dumps([[point.x * width, point.y * height, point.visibility] for point in points]), flush=True)
