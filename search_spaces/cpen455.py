"""Which way of telling the network the image's class classifies best on the course's data?

Needs --set data.root=PATH, the folder that holds train.csv. Cost: 32 trials of 20 epochs on 4,159 images of 32x32, a
matter of GPUs. For a look on a CPU: --trials 4 --set model.nr_resnet=1 --set model.nr_filters=16 --set train.epochs=1
--set data.train_fraction=0.05.
"""

from search_spaces import choice, floats, ints

space = {
    "model.fusion": choice(
        {
            "none": {},
            "input_map": {},
            "input_concat": {"model.fusion_options.input_concat.dim": ints(8, 64, log=True)},
            "stem_add": {},
            "block_mild": {},
            "block_three_bias": {},
            "block_film": {},
            "bottleneck_add": {},
            "input_concat+block_film+skip_add+head_add": {},
        }
    ),
    "model.nr_resnet": ints(1, 4),
    "model.nr_filters": ints(40, 120, step=20),
    "model.nr_logistic_mix": ints(5, 10),
    "model.dropout": floats(0.0, 0.5),
    "train.lr": floats(2e-4, 2e-3, log=True),
}

settings = {
    "data.name": "cpen455",
    "train.epochs": 20,
    "train.batch_size": 32,
    "train.ema_decay": 0.999,
}

trials = 32
objective = "val_acc"
