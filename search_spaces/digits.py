"""Which way of telling the network the digit's class classifies best, and how large need the network be?

Cost: 12 trials of 6 epochs on 1,200 images of 8x8, about 3 minutes on 2 cores. The data ships with scikit-learn.
"""

from search_spaces import choice, floats, ints

space = {
    "model.fusion": choice("none", "input_map", "stem_add", "block_three_bias"),
    "model.nr_resnet": ints(1, 2),
    "model.nr_filters": ints(8, 32, step=8),
    "model.nr_logistic_mix": ints(2, 5),
    "train.lr": floats(1e-3, 1e-2, log=True),
}

settings = {
    "data.name": "digits",
    "train.epochs": 6,
    "model.dropout": 0.1,
}

trials = 12
objective = "val_acc"
