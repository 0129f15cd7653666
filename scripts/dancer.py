"""The dancer that make_dataset.py draws: a seeded motion, its skeleton, and the solids around it.

Units: metres, seconds, radians. x points right, y up, z away from the camera; yaw 0 faces the camera, yaw pi/2 the
right edge. Solids are convex hulls of spheres. Arrays: T frames.
"""

import numpy as np

FRAMES_PER_SECOND = 30

SKIN, HAIR, EYE = (226, 170, 136), (74, 46, 32), (60, 40, 34)
JACKET, SHIRT, TROUSERS, SHOE = (190, 58, 46), (240, 232, 216), (46, 58, 98), (148, 88, 48)
RIBBON, GREEN = [f"ribbon_{i}" for i in range(4)], (30, 215, 60)  # its joints, the first is in the hair

ARMS = [f"{side}_{part}_{way}" for side in ("right", "left") for part in ("upper", "fore") for way in ("out", "ahead")]
LEGS = [f"{side}_{angle}" for side in ("right", "left") for angle in ("leg_out", "leg_ahead", "knee")]
TRUNK = ["head", "lean", "sway", "squat"]
CHANNELS = ["x", "z", "yaw", *TRUNK, *LEGS, *ARMS]  # a key pose has a value for each
RELAXED = (0.14, 0.0, 0.08, 0.2)  # arm poses: upper arm (out, ahead), forearm (out, ahead); 0 hangs down
ARM_POSES = [RELAXED, (1.5, 0, 1.5, 0), (2.6, 0.1, 2.9, 0), (2.2, 0, 2.4, 0), (1.5, 0, 2.9, 0.2), (0.1, 1.5, 0.1, 1.6),
             (0.8, -0.3, -0.7, 0.2), (0.8, 0, 0.9, 0.2), (0.4, 0.8, -1, 1.2), (1.4, 0.3, 0.4, 1.3), (0.3, -0.6, 0.3, 0)]


def both_arms(generator, right=RELAXED, left=RELAXED):
    """Part of a key pose: two arm poses with a small random change."""
    return dict(zip(ARMS, generator.normal((*right, *left), 0.08), strict=True))


def turned(key, yaw, head):
    """(seconds, key pose): the dancer turns the short way to face along yaw."""
    angle = (yaw - key["yaw"] + np.pi) % (2 * np.pi) - np.pi
    return 0.4 + 0.33 * abs(angle), key | {"yaw": key["yaw"] + angle, "head": head}


def walk(generator, key, reach):
    """Action, a list of (seconds, key pose): turn to a new place, mostly on the other side, and walk there."""
    x, z = -np.sign(key["x"] or 1) * generator.uniform(-0.2, 1) * reach, generator.uniform(-0.7, 1.3)
    way = x - key["x"], z - key["z"]
    seconds, facing = turned(key | both_arms(generator), np.arctan2(way[0], -way[1]), 0.0)
    arrived = facing | {"x": x, "z": z, "head": generator.normal(0, 0.3)}
    return [(seconds, facing), (0.4 + np.hypot(*way) / generator.uniform(0.7, 1), arrived)]


def turn(generator, key, reach):
    """Action: turn on the spot to the camera, sideways or away, one time in five by way of the opposite."""
    yaw = generator.choice([0, 0, 0, 0.8, -0.8, 1.6, -1.6, np.pi]) + generator.normal(0, 0.15)
    if generator.random() < 0.2:  # half a turn first
        return [halfway := turned(key, yaw + np.pi, 0.0), turned(halfway[1], yaw, generator.normal(0, 0.2))]
    return [turned(key, yaw, generator.normal(0, 0.2))]


def dance(generator, key, reach):
    """Action: swing once or twice between two poses of arms, legs and trunk, then stand."""
    poses = []
    for _ in range(2):
        right, left = (ARM_POSES[i] for i in generator.integers(len(ARM_POSES), size=2))
        pose = key | both_arms(generator, right, right if generator.random() < 0.6 else left)
        squat, side = generator.choice([0, generator.uniform(0.3, 1)]), generator.choice(["right", "left"])
        pose |= dict(zip(TRUNK, generator.normal((0, 0.45 * squat, 0), 0.1), strict=False)) | {"squat": squat}
        if generator.random() < 0.3 and not squat:
            names = f"{side}_leg_out", f"{side}_leg_ahead", f"{side}_knee"
            pose |= dict(zip(names, generator.uniform((0, 0, 0), (0.5, 1.3, 1.6)), strict=True))
        poses.append((generator.uniform(0.5, 1), pose))
    stand = key | dict.fromkeys(TRUNK + LEGS, 0.0) | both_arms(generator)
    return poses * generator.integers(1, 3) + [(generator.uniform(0.2, 0.6), poses[-1][1]), (0.7, stand)]


def make_motion(generator, frames, reach):
    """A seeded dance within x = -reach..reach, smooth between key poses: {channel: (T,)}."""
    keys = [dict.fromkeys(CHANNELS, 0.0) | both_arms(generator) | {"x": generator.uniform(-0.5, 0.5) * reach}]
    times = [0.0]
    while times[-1] * FRAMES_PER_SECOND <= frames:
        action = generator.choice([walk, turn, dance], p=[0.37, 0.25, 0.38])
        for seconds, key in action(generator, keys[-1], reach):
            keys.append(key)
            times.append(times[-1] + seconds)
    now = np.arange(frames) / FRAMES_PER_SECOND
    before = np.searchsorted(times, now, side="right") - 1
    share = (now - np.take(times, before)) / np.diff(times)[before]
    share = share ** 2 * (3 - 2 * share)  # smoothstep: at rest in each key pose
    tracks = {name: np.array([key[name] for key in keys]) for name in CHANNELS}
    return add_gait({name: v[before] + share * (v[before + 1] - v[before]) for name, v in tracks.items()})


def add_gait(motion):
    """Swing legs and arms with the distance walked, so feet hardly slide; bend the legs to squat; sway a little."""
    seconds = np.arange(len(motion["x"])) / FRAMES_PER_SECOND
    motion["sway"] += 0.02 * np.sin(1.9 * seconds)
    motion["lean"] += 0.02 * np.sin(1.3 * seconds)
    step = np.hypot(*(np.diff(motion[axis], prepend=motion[axis][0]) for axis in "xz"))
    swing = np.minimum(step * FRAMES_PER_SECOND / 0.7, 1)  # full from 0.7 m/s on
    for side, start in (("right", 0), ("left", np.pi)):
        phase = start + np.cumsum(step) * 2 * np.pi / 1.4  # 1.4 m per pair of steps
        motion[f"{side}_leg_ahead"] += 0.48 * swing * np.sin(phase) + 1.05 * motion["squat"]
        motion[f"{side}_knee"] += swing * (0.1 + 0.65 * np.maximum(np.cos(phase + 0.4), 0)) + 1.9 * motion["squat"]
        motion[f"{side}_leg_out"] += 0.05 + 0.2 * motion["squat"]
        motion[f"{side}_upper_ahead"] -= 0.5 * swing * np.sin(phase)
        motion[f"{side}_fore_ahead"] += swing * (0.3 - 0.5 * np.sin(phase))
    return motion


def forward_and_right(yaw):
    """Unit vectors, two (T, 3), forward and to the right of a dancer who faces along yaw (T,)."""
    zero = np.zeros_like(yaw)
    return np.stack([np.sin(yaw), zero, -np.cos(yaw)], 1), np.stack([-np.cos(yaw), zero, -np.sin(yaw)], 1)


def hanging(ahead, outward, up, out_angle, ahead_angle):
    """Unit vectors (T, 3) of a limb that hangs down and is lifted outward and ahead by angles (T,)."""
    out_angle, ahead_angle = out_angle[:, None], ahead_angle[:, None]
    return outward * np.sin(out_angle) + np.cos(out_angle) * (ahead * np.sin(ahead_angle) - up * np.cos(ahead_angle))


def make_skeleton(motion):
    """Joints (and unit vectors up, ahead, face, cheek) of the dancer, the lower foot on the floor: {name: (T, 3)}."""
    forward, right = forward_and_right(motion["yaw"])
    vertical = np.zeros_like(forward) + (0, 1, 0)
    up = -hanging(-forward, -right, vertical, motion["sway"], motion["lean"])
    ahead = np.cross(right, up)
    face, cheek = forward_and_right(motion["yaw"] + motion["head"])
    s = {"middle_hip": 0 * up, "neck": 0.52 * up, "head": 0.72 * up + 0.02 * face, "nose": 0.7 * up + 0.135 * face}
    for side, sign in (("right", 1), ("left", -1)):
        outward, m = sign * right, {name: motion[f"{side}_{name}"] for name in (
            "leg_out", "leg_ahead", "knee", "upper_out", "upper_ahead", "fore_out", "fore_ahead")}
        shin = m["leg_ahead"] - m["knee"]
        hip, shoulder = 0.095 * outward, 0.47 * up + 0.18 * outward
        knee = hip + 0.44 * hanging(forward, outward, vertical, m["leg_out"], m["leg_ahead"])
        ankle = knee + 0.42 * hanging(forward, outward, vertical, m["leg_out"], shin)
        toe = ankle + 0.17 * hanging(forward, outward, vertical, 0.3 + 0 * shin, 1.5 + 0.5 * shin) - 0.04 * vertical
        elbow = shoulder + 0.29 * hanging(ahead, outward, up, m["upper_out"], m["upper_ahead"])
        fore = hanging(ahead, outward, up, m["fore_out"], m["fore_ahead"])
        s |= {f"{side}_{name}": point for name, point in {
            "hip": hip, "knee": knee, "ankle": ankle, "heel": ankle - 0.04 * forward - 0.035 * vertical, "toe": toe,
            "shoulder": shoulder, "elbow": elbow, "wrist": elbow + 0.25 * fore, "hand": elbow + 0.32 * fore,
            "eye": s["head"] + 0.09 * face + 0.042 * sign * cheek + 0.005 * up,
            "ear": s["head"] - 0.015 * face + 0.095 * sign * cheek - 0.015 * up}.items()}
    height = 0.085 - np.minimum(s["right_ankle"][:, 1], s["left_ankle"][:, 1])
    place = np.stack([motion["x"], height, motion["z"]], 1)
    return {name: v + place for name, v in s.items()} | {"up": up, "ahead": ahead, "face": face, "cheek": cheek}


def add_ribbon(skeleton, generator):
    """The skeleton with a ribbon in the hair: parts of 0.2 m between the joints RIBBON, which no pose shows. The angle
    of the first, 0 upwards, is an AR(2) process with the double pole exp(-1/6) and a standard deviation of 0.65 rad.
    Each further part has the angle that the part before had 3 frames ago."""
    frames, pole, start = len(skeleton["head"]), np.exp(-1 / 6), 200  # frames until it is stationary
    angle = generator.normal(size=start + frames)
    for t in range(2, len(angle)):
        angle[t] += 2 * pole * angle[t - 1] - pole ** 2 * angle[t - 2]
    angle *= 0.65 / np.sqrt((1 + pole ** 2) / (1 - pole ** 2) ** 3)
    joints = [skeleton["head"] + 0.06 * skeleton["up"]]
    for part in range(len(RIBBON) - 1):
        delayed = angle[start - 3 * part:][:frames]
        joints.append(joints[-1] + 0.2 * np.stack([np.sin(delayed), np.cos(delayed), 0 * delayed], 1))
    return skeleton | dict(zip(RIBBON, joints, strict=True))


def make_solids(s):
    """The dancer's solids: (colour, bias towards the camera in m, [(centre (T, 3), radius in m), ...]) each."""
    head, up, ahead, face = s["head"], s["up"], s["ahead"], s["face"]
    waist, chest, collar = (s["middle_hip"] + share * (s["neck"] - s["middle_hip"]) for share in (0.3, 0.72, 0.9))
    torso = [(collar, 0.07), (chest, 0.125), (waist, 0.115)]
    solids = [(JACKET, 0.03, torso), (SKIN, 0, [(collar, 0.055), (head - 0.08 * up, 0.055)]),
              (SHIRT, 0, [(chest + 0.09 * ahead + 0.06 * up, 0.05), (waist + 0.085 * ahead, 0.045)]),
              (SKIN, 0, [(head + 0.012 * face + 0.01 * up, 0.096), (head + 0.035 * face - 0.085 * up, 0.052)]),
              (SKIN, 0, [(s["nose"] - 0.015 * up, 0.021)]),
              (HAIR, 0.01, [(head - 0.03 * face + 0.06 * up, 0.1), (head - 0.06 * face - 0.04 * up, 0.07)])]
    for side in ("right", "left"):
        hip, knee, ankle, heel, toe, shoulder, elbow, wrist, hand, eye, ear = (s[f"{side}_{name}"] for name in (
            "hip", "knee", "ankle", "heel", "toe", "shoulder", "elbow", "wrist", "hand", "eye", "ear"))
        torso += [(shoulder + 0.25 * (chest - shoulder), 0.08), (hip + 0.06 * up, 0.1)]
        cuff = elbow + 0.45 * (wrist - elbow)
        solids += [(TROUSERS, 0, [(hip, 0.098), (knee, 0.066)]), (TROUSERS, 0, [(knee, 0.066), (ankle, 0.05)]),
                   (SHOE, 0.01, [(heel, 0.048), (ankle, 0.05), (toe, 0.042)]), (SKIN, 0.07, [(hand, 0.046)]),
                   (JACKET, 0.06, [(shoulder, 0.068), (elbow, 0.054)]), (JACKET, 0.08, [(elbow, 0.054), (cuff, 0.05)]),
                   (SKIN, 0.07, [(cuff, 0.04), (wrist, 0.033)]), (EYE, 0, [(eye, 0.014)]), (SKIN, 0.03, [(ear, 0.02)])]
    ends = [(s[name], 0.05) for name in RIBBON if name in s]
    return solids + [(GREEN, 0.4, list(part)) for part in zip(ends, ends[1:], strict=False)]
