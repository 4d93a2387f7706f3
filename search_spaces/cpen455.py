"""Which way of telling the network the image's class classifies and draws best on the course's data?

The ranges hold all that four reports on this data used, up to 5/160/10 (nr_resnet, nr_filters, nr_logistic_mix), and
what was measured to help: little dropout, learning rates above 2e-3, flips, an average of the weights, a small class
loss. FID is measured in the features of a classifier that learns from the data (docs/fid.md), which needs no download.

Needs --set data.root=PATH, the folder that holds train.csv. Cost: 32 trials of 20 epochs on 4,159 images of 32x32, a
matter of GPUs. --preset cpu is for a look: at most 1/24/5 at 16x16, a fifth of the images, 4 trials of 4 epochs.
--preset grading asks by the course's grading, and needs Inception's weights: downloaded where they can be, else
--set eval.fid_weights=FILE.
"""

from search_spaces import COURSE_GRADING, COURSE_ON_A_CPU, choice, desirability, floats, ints, soft_goal

# With all classes instead of one other, drawn anew in each step, a step takes three to four times as long.
CLASS_LOSS = {"train.class_loss_others": 1}

space = {
    "model.fusion": choice(
        {
            "none": {},
            "input_add": {},
            "input_map": {},
            "input_concat": {"model.fusion_options.input_concat.dim": ints(2, 64, log=True)},
            "stem_add": {},
            "stem_concat": {"model.fusion_options.stem_concat.dim": ints(2, 64, log=True)},
            "block_mild": {},
            "block_strong": {},
            "block_three_bias": {},
            "block_film": {},
            "block_concat": {"model.fusion_options.block_concat.dim": ints(2, 64, log=True)},
            "skip_add": {},
            "bottleneck_add": {},
            "bottleneck_map": {},
            "bottleneck_film": {},
            "head_add": {},
            "input_concat+block_film+skip_add+head_add": {},
        }
    ),
    "model.label_encoding": choice("one_hot", "embedding", "sinusoidal"),
    "model.nr_resnet": ints(1, 5),
    "model.nr_filters": ints(40, 160, step=20),
    "model.nr_logistic_mix": ints(5, 10),
    "model.dropout": floats(0.05, 0.5),
    "train.lr": floats(2e-4, 5e-3, log=True),
    "train.class_loss_weight": choice({0.0: {}, 3e-4: CLASS_LOSS, 1e-3: CLASS_LOSS, 3e-3: CLASS_LOSS}),
}

settings = {
    "data.name": "cpen455",
    "train.epochs": 20,
    "train.batch_size": 16,
    "train.precision": "bf16",  # on a GPU four times as fast at 4/120/10, at the same accuracy (docs/performance.md)
    "train.schedule": "cosine",
    "train.warmup_epochs": 1.0,
    "train.flip": True,
    "train.ema_decay": 0.999,
    "eval.every": 2,  # images are scored and drawn after the same epochs: a score needs both
    "eval.train_images": 128,
    "eval.fid_every": 2,
    "eval.fid_extractor": "classifier",
}

trials = 32
resources = {"gpus": "auto"}  # as many trials on each GPU as it gains from; without a GPU this changes nothing
objective = desirability(val_acc=soft_goal(0.5, 0.9), fid=soft_goal(40.0, 0.5, log=True))

presets = {
    "cpu": {
        "space": {"model.nr_filters": ints(8, 24, step=8)},
        "settings": COURSE_ON_A_CPU,
        "trials": 4,
    },
    "grading": {
        "settings": {
            "eval.every": 5,
            "eval.fid_every": 5,
            "eval.fid_extractor": "inception-192",
            "eval.fid_reference": "test_files",
        },
        "objective": COURSE_GRADING,
        # Only every fifth epoch has a score, so that is where trials can be compared.
        "scheduler": {"name": "asha", "grace_epochs": 5},
    },
}
