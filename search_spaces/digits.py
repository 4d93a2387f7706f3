"""Which way of telling the network the digit classifies best, and how large need the network be?

Cost: 10 trials of 4 epochs on 1,197 images of 8x8, some 4 minutes on 2 cores. The data ships with scikit-learn.
"""

from search_spaces import choice, floats, ints

space = {
    "model.fusion": choice("none", "input_map", "stem_add", "block_mild", "block_three_bias", "block_film"),
    "model.nr_resnet": ints(1, 2),
    "model.nr_filters": ints(8, 16, step=4),
    "model.nr_logistic_mix": ints(2, 5),
    "train.lr": floats(3e-3, 2e-2, log=True),
}

settings = {
    "data.name": "digits",
    "model.dropout": 0.1,
    "train.epochs": 4,
    "train.schedule": "cosine",
    "eval.batch_size": 500,
    "eval.train_images": 100,
}

trials = 10
objective = "val_acc"
