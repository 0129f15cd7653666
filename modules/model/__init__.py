"""The model: its networks and how they are read from a checkpoint. These names are also the flags' choices.

An architecture is a module beside this one. It offers
    build(F_dim, L_dim, N_dim, D_out_dim, levels, prior_frames)    the five networks and the prior, by their names
    joined(features)       the features of several frames as those of one, for the prior
    sizes_of(state)        the arguments of VAE_Model, with prior_frames in the place of prior, from the shapes of its
                           weights; KeyError for other weights
    LEVELS, levels_for(height, width)    the numbers of resolutions that it can have, and that of a new model
    USES_X_1, USES_LAST    whether Decoder_Fusion uses the features of x_1 and of the last frame
    ADAMW_NETWORKS         the networks that --optim Muon leaves to AdamW
"""

ARCHITECTURES = ("template", "multiscale")
PRIORS = {"standard": 0, "learned": 1, "learned2": 2}  # how many of the last frames each sees
