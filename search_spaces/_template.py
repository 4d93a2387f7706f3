"""Does a wider network classify the digits better, and with which learning rate?

Cost: 6 trials of 2 epochs on 1,197 images of 8x8, a minute or two on 2 cores. The data ships with scikit-learn.
--preset long: 16 trials of 8 epochs.

The text up to here is the question that the sweep's tables and report show: write yours.
"""

# choice is one of several; ints and floats are ranges with both ends; log=True goes by factors, step=8 in steps.
from search_spaces import choice, floats, ints

# What is searched. Each name is a field of the configuration; `--set` and the tables use the same names, and
# docs/settings.md lists them all. A misspelt one is answered with the nearest that there is.
space = {
    "model.fusion": choice("stem_add", "block_mild", "block_film"),
    "model.nr_filters": ints(8, 16, step=4),
    "train.lr": floats(3e-3, 2e-2, log=True),
}

# What stays fixed. A field that is in neither has its default.
settings = {
    "data.name": "digits",  # a folder for each class: "folder", with --set data.root=PATH; docs/data.md has more
    "train.epochs": 2,
    "eval.batch_size": 500,  # only as fast as memory allows; no result depends on it
    # "eval.fid_every": 2,  # draw images in every second epoch, and measure their FID
    # "eval.fid_extractor": "classifier",  # in the features of a small network that learns from the data
}

# How many configurations are tried.
trials = 6

# What is optimised: a metric, as here, or `desirability`, `constrained` or `pareto` of several (docs/search.md).
objective = "val_acc"

# What chooses the next configuration: "tpe" learns from those before; "random", "grid", "nsga2", "gp".
sampler = "tpe"

# Which trials stop early: "asha" those that fall behind at an epoch; "none" lets each come to its end.
scheduler = "none"

# `--preset long` takes what is here instead of the above.
presets = {
    "long": {"settings": {"train.epochs": 8}, "trials": 16},
}
