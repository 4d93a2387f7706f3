"""Which way of telling the network the digit classifies and draws best, and how large need the network be?

Cost: 10 trials of 4 epochs on 1,197 images of 8x8, some 4 minutes on 2 cores. The data ships with scikit-learn. FID is
measured in the features of a small classifier that learns from it (docs/fid.md): 18 of a network before training, 0.5
of real digits.
"""

from search_spaces import choice, desirability, floats, ints, soft_goal

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
    "eval.fid_every": 2,
    "eval.fid_extractor": "classifier",
}

trials = 10
objective = desirability(val_acc=soft_goal(0.5, 0.95), fid=soft_goal(20.0, 0.5, log=True))
