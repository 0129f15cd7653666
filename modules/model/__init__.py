"""The model: what it is made of and how it is read from a checkpoint. These names are also the flags' choices."""

ARCHITECTURES = ("template", "multiscale")  # each is a module beside this one
PRIORS = ("standard", "learned")
