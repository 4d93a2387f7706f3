"""How does bpd after equally many epochs fall with depth, width and the number of mixture components, each by itself?

The question of figure 1 of "Image Classification with Conditional PixelCNN++": the mild fusion with a linear schedule
and a fixed number of epochs. Reported, without numbers: bpd falls with each of the three; deeper and wider networks
take longer. The report went on with 5/120/10 (nr_resnet, nr_filters, nr_logistic_mix).

From 2/80/5, one of the three varies at a time. Needs --set data.root=PATH, the folder that holds train.csv. Cost: 12
trials of 20 epochs on 4,159 images of 32x32, a matter of GPUs. --preset cpu is for a look: around 1/16/5 at 16x16, a
fifth of the images, 4 epochs.
"""

from search_spaces import choice

RESNET, FILTERS, MIX = "model.nr_resnet", "model.nr_filters", "model.nr_logistic_mix"

space = {
    RESNET: choice(
        {
            2: {
                FILTERS: choice(
                    {80: {MIX: choice(5, 1, 2, 10, 15)}, 40: {MIX: 5}, 120: {MIX: 5}, 160: {MIX: 5}},
                )
            },
            1: {FILTERS: 80, MIX: 5},
            3: {FILTERS: 80, MIX: 5},
            4: {FILTERS: 80, MIX: 5},
            5: {FILTERS: 80, MIX: 5},
        }
    ),
}

settings = {
    "data.name": "cpen455",
    "model.fusion": "block_mild",
    "train.epochs": 20,
    "train.schedule": "linear",
    "eval.every": 2,
    "eval.train_images": 0,
}

trials = 12
sampler = "grid"
# All are compared after the same number of epochs.
scheduler = "none"
objective = "val_bpd"

presets = {
    "cpu": {
        "space": {
            RESNET: choice(
                {
                    1: {FILTERS: choice({16: {MIX: choice(5, 1, 10)}, 8: {MIX: 5}, 24: {MIX: 5}})},
                    2: {FILTERS: 16, MIX: 5},
                    3: {FILTERS: 16, MIX: 5},
                }
            ),
        },
        "trials": 7,
        "settings": {
            "data.image_size": 16,
            "data.train_fraction": 0.2,
            "train.epochs": 4,
        },
    },
}
