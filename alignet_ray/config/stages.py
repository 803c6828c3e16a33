"""The configuration's sections for the stages, in the order of the line, and for sweeps."""

from typing import Annotated, Literal

import tyro
from pydantic import Field

from alignet_ray.config.sections import Section


class Embed(Section):
    """embed: images -> embeddings of the frozen teacher."""

    model: tuple[str, ...] = ("vit_so400m_patch14_siglip_384.webli",)
    """The teacher: a timm name (pretrained weights), `NAME@FILE` (local checkpoint), `pip:efficientnet-lite0`,
    `random:NAME`, or a folder that `distill` wrote. Several are concatenated."""
    size: int | None = None
    """Square input side in pixels; left out: the model's own."""
    batch_size: int | None = Field(None, ge=1)
    """Images per forward pass; left out: 256 on a GPU (fewer where they do not fit), else 32. Does not change a
    result."""
    actors: int | None = None
    """Embedding actors; left out: two per GPU, or one per two cores, at least two. Does not change a result."""
    readers: int | None = Field(None, ge=0)
    """Processes that open images for the actors; 0: an actor opens its own. Left out: the cores that GPU actors leave,
    and 0 without GPUs. Does not change a result."""
    resize: Literal["auto", "device", "reader"] = "auto"
    """Where pictures that readers open are resized: by the network's device or by the reader; auto: by the device, if
    that is a GPU. Does not change a result."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the forward pass; auto: on a GPU, where that pays for the images left. Does not change a result (to
    rounding)."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored embeddings."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Number format of the forward pass; bfloat16 is for GPUs."""
    decode: Literal["exact", "fast"] = "exact"
    """`fast`: JPEGs much larger than the network's input are decoded at a part of their size, and without a GPU 8-bit
    kernels resize them; the log says how near the embeddings come."""
    layer: str = "pre_logits"
    """The teacher's layer: `pre_logits`, `patch_mean` (mean of the last patches) or `block:N` (mean after block N)."""
    max_bad: float = Field(0.01, ge=0, le=1)
    """Share of unreadable images that is tolerated."""


class Soften(Section):
    """soften: human answers -> a model of human choices and their uncertainty."""

    dims: int = Field(100, ge=1)
    """Dimensions that the fit starts with."""
    num_samples: int = Field(50, ge=1)
    """Posterior draws that a choice probability is averaged over."""
    seeds: int = Field(1, ge=1)
    """Fits from different seeds, as Ray tasks; the best is kept, and how far they agree is reported."""
    steps: int = Field(1250, ge=1)
    """Optimiser steps of a fit."""
    kl_anneal: float = Field(0.3, ge=0, le=1)
    """Share of the steps over which the prior gains its full weight; too little, and it presses everything to zero."""
    batch_size: int = Field(8192, ge=1)
    """Answers a step."""
    lr: float = Field(1e-2, gt=0)
    """Adam's step size."""
    spike: float = Field(0.25, gt=0)
    """Standard deviation of the prior's spike."""
    slab: float = Field(1.0, gt=0)
    """Standard deviation of the prior's slab."""
    pi: float = Field(0.5, gt=0, lt=1)
    """Prior share of entries in the spike."""


class Network(Section):
    """align.map network: the teacher itself is fine-tuned on people's soft choices."""

    metric: Literal["classes", "plain"] = "classes"
    """How images are compared with the judged ones: as the network's own classifier weighs features (where its weights
    came with one; else as they are), or plainly as they are."""
    temperature: float | None = Field(None, gt=0)
    """How far the teacher looks around among judged images (of cosines); left out: the one at which the training
    objects predict each other best."""
    steps: int = Field(30, ge=0)
    """Updates; the validation objects choose the one that is kept. 0: the network stays as it is, and only describes
    images by their neighbours."""
    batch_size: int = Field(96, ge=3)
    """Objects an update, one random image each; all processes together."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of Adam: linear warm-up, then cosine to 0."""
    decay_to_init: float = Field(1.0, ge=0)
    """Strength of the pull to the pretrained weights, relative to the learning rate: keeps local structure."""
    locality: float = Field(0.0, ge=0)
    """Weight of gLocal's local term: neighbours before training stay neighbours (costs a forward pass of the base)."""
    interpolation: float = Field(1.0, gt=0)
    """How far to go from the pretrained weights (0) to the fine-tuned ones (1): the report shows what it trades."""
    embedding_loss_weight: float = Field(1.0, ge=0)
    """Weight of the same loss on the cosines of `pre_logits`."""
    similarity_spread: float = Field(1.0, gt=0)
    """How many times as wide as in the pretrained network these cosines are to spread within triplets: at 4 the
    features agree with people as well as the head does, and students of its labels recognise single objects worse."""
    crop: float = Field(0.8, gt=0, le=1)
    """Random crops keep at least this share of a side, and half of them are flipped; 1: images as they are."""
    every: int = Field(10, ge=1)
    """Updates between two looks at the validation objects."""
    workers: int | None = None
    """Training processes; left out: one per GPU, or two on CPU. Does not change a result (to rounding)."""


class Align(Section):
    """align: a map from the teacher's embedding space to one whose similarities predict people's choices."""

    from_: Annotated[str | None, tyro.conf.arg(name="from")] = Field(None, alias="from")
    """A stored transform (.npz, .safetensors, an align artifact) to use instead of fitting one."""
    map: Literal["affine", "low_rank", "diagonal", "orthogonal", "network"] = "low_rank"
    """Form of the map."""
    rank: int = Field(100, ge=1)
    """Principal dimensions that a low-rank map acts on."""
    objective: Literal["soft", "hard"] = "soft"
    """Learn the human model's choice probabilities of any triplet (soft), or only the answers themselves (hard)."""
    alpha: float = Field(0.0, ge=0, lt=1)
    """Weight of gLocal's local term, which keeps every image's neighbours; 0 leaves it out."""
    tau: float = Field(0.1, gt=0)
    """Temperature of the local term."""
    folds: int = Field(3, ge=0)
    """Object-wise folds that judge these settings on the training objects; 0 leaves that out."""
    search: int = Field(0, ge=0)
    """Settings (pull, lr, rank, local term) that Ray Tune tries on all folds, these first; the best is then fitted."""
    network: Network = Network()
    """Settings of `align.map network`."""
    identity_penalty: float = Field(5e-4, ge=0)
    """Weight of the pull of the map's weights to a multiple of the identity, for features of unit mean square norm."""
    lr: float = Field(1e-2, gt=0)
    """Adam's step size."""
    steps: int = Field(2000, ge=1)
    """Largest number of optimiser steps; the cross-entropy of the validation objects stops earlier."""
    batch_size: int = Field(8192, ge=1)
    """Object triplets a step."""
    patience: int = Field(10, ge=1)
    """Looks (one every 20 steps) without a better cross-entropy before the fit stops."""
    triplets: int = Field(300_000, ge=1)
    """Largest number of different training triplets that are drawn."""


class Cluster(Section):
    """cluster: k-means over the corpus."""

    k: int = Field(500, ge=2)
    """Clusters ("superordinate categories")."""
    candidates: tuple[int, ...] = ()
    """Numbers of clusters to try on a sample of the images; the one that `choose` picks replaces k."""
    choose: Literal["elbow", "silhouette"] = "elbow"
    """How a candidate is picked: the bend of the inertia curve, or the highest mean silhouette."""
    space: Literal["aligned", "raw"] = "aligned"
    """Cluster the aligned or the raw embeddings."""
    spherical: bool = False
    """Cluster directions: rows and centroids have length one."""
    restarts: int = Field(1, ge=1)
    """Fits from different k-means++ seedings; the one of lowest inertia is kept."""
    iterations: int = Field(50, ge=1)
    """Lloyd passes at most."""
    tolerance: float = Field(1e-4, ge=0)
    """Stop when a pass lowers the inertia by less than this share of it."""
    reassign_tol: float = Field(1e-3, ge=0, le=1)
    """Stop when a pass moves less than this share of the images to another cluster."""
    sample: int = Field(20_000, ge=1)
    """Images (random ones) that the k-means++ seeding and the candidates look at; at least 20 per cluster."""


class Label(Section):
    """label: draw image triplets and let the teacher say which is the odd one.

    The six kinds of draw are mixed in proportion to their weights.
    """

    from_: Annotated[str | None, tyro.conf.arg(name="from")] = Field(None, alias="from")
    """Labelled triplets in DeepMind's format (.npz) to take instead of drawing; images are found by file name."""
    from_valid: str | None = None
    """Validation triplets in that format; left out: those of `from` whose images are all set aside."""
    train: int = Field(100_000, ge=1)
    """Training triplets, exactly."""
    valid: int = Field(10_000, ge=1)
    """Validation triplets; on a small corpus as many as there are."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of the images that are set aside: validation triplets use these alone, training triplets none of them."""
    cluster_border: float = Field(1.0, ge=0)
    """Weight of: two images of one cluster and one of another."""
    within_cluster: float = Field(0.0, ge=0)
    """Weight of: three images of one cluster."""
    class_border: float = Field(0.0, ge=0)
    """Weight of: two images of one class (folder) and one of another."""
    within_class: float = Field(0.0, ge=0)
    """Weight of: three images of one class."""
    between_class: float = Field(0.0, ge=0)
    """Weight of: one image of each of three classes."""
    uniform: float = Field(0.0, ge=0)
    """Weight of: any three images."""


class Distill(Section):
    """distill: teach the student the teacher's similarity judgements."""

    model: str = "vit_base_patch16_siglip_224.webli"
    """The student's backbone (same spellings as embed.model)."""
    size: int | None = None
    """Square input side in pixels; left out: the model's own."""
    squash: bool = False
    """See images whole, squashed to the square, values in [0, 1], as AligNet's released students do; else as the
    model's own transform does. Kept with the student."""
    batching: Literal["in_batch", "triplets"] = "in_batch"
    """`in_batch`: all triplets inside a batch of distinct images, judged by the teacher's embeddings (needs several
    times fewer images). `triplets`: the labelled triplets, three images each, as published."""
    steps: int = Field(1000, ge=1)
    """Updates."""
    batch_size: int = Field(128, ge=3)
    """Images an update (`in_batch`), or triplets an update (`triplets`); all processes together."""
    in_batch_triplets: int = Field(16_384, ge=1)
    """Most triplets inside a batch that the loss looks at."""
    per_cluster: int = Field(0, ge=0)
    """`in_batch`: draw this many images from each of batch / per_cluster clusters; 0: draw uniformly."""
    objective: Literal["jsd", "kld", "contrastive"] = "jsd"
    """Divergence between the teacher's and the student's choices."""
    tau: float | Literal["auto"] = "auto"
    """Divides the dot products of the head's outputs. `auto`: so that they spread as the teacher's similarities do."""
    normalize: bool = False
    """Scale the head's outputs to length 1 before their dot products."""
    head: int = Field(1024, ge=0)
    """Width of the triplet head; 0: none, the loss is then on the embedding itself."""
    embedding_loss_weight: float = Field(1.0, ge=0)
    """Weight of the same loss on the cosines of the embedding (`pre_logits`), beside the head's."""
    similarity_spread: float = Field(1.0, gt=0)
    """How many times as wide as in the pretrained network these cosines are to spread within triplets: wider ones agree
    better with people, and forget more of what tells one object from its like (few-shot recognition)."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate of Adam: linear warm-up, then cosine to 0."""
    warmup: float = Field(0.1, ge=0)
    """Updates of warm-up: a share of all below 1, a number from 1 on."""
    decay_to_init: float = Field(1.0, ge=0)
    """Strength of the pull to the initial weights, relative to the learning rate."""
    l2_to_init: float = Field(0.0, ge=0)
    """Weight of half the squared distance to the initial weights in the loss: another form of that pull."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of every layer group relative to the group behind it; the head's is `lr`."""
    hard_fraction: float = Field(1.0, gt=0, le=1)
    """Share of an update's triplets that count, those with the largest loss."""
    grad_clip: float | None = None
    """Largest norm of the gradient."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of a running mean of the weights, which is then the student; 0: the last weights are."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """BatchNorm layers keep their pretrained statistics, or renew them (each process from its own images)."""
    trainable: Literal["all", "head"] | int = "all"
    """Train everything, the head alone, or the head and this many of the last layer groups."""
    crop: float = Field(1.0, gt=0, le=1)
    """Random crops whose side is at least this share of the image's, and random flips; 1: images as they are."""
    bfloat16: bool = False
    """Compute in bfloat16 where that is safe."""
    micro_batch: int | None = None
    """Images in one forward pass of a process, to save memory (costs a second forward pass); left out: all at once."""
    compile: bool = False
    """Compile the network (worth it on a GPU)."""
    cache_pixels: bool = True
    """Decode and resize every image once into a file that all processes map; else decode whenever it is drawn."""
    locality: float = Field(0.0, ge=0)
    """Weight of gLocal's local term: neighbours before training stay neighbours (costs a forward pass of the base)."""
    overfit_batch: bool = False
    """Train on one batch again and again, to see whether anything can be learned: the loss must fall towards 0."""
    valid: int = Field(500, ge=1)
    """Validation triplets that the student is judged on while it trains. Does not change the student."""
    valid_every: int = Field(100, ge=1)
    """Updates between two such judgements. Does not change the student."""
    log_every: int = Field(20, ge=1)
    """Updates between two rows of metrics. Does not change the student."""
    checkpoint_every: float = Field(30.0, ge=0)
    """Seconds between checkpoints; the first one follows the first update. Does not change the student."""
    max_failures: int = 2
    """How often a lost process is replaced before the run gives up."""
    workers: int | None = None
    """Training processes; left out: one per GPU, or two on CPU. Does not change a result (to rounding)."""
    min_workers: int | None = Field(None, ge=1)
    """Go on with so few training processes while machines are missing, and with more when they are back; left out:
    wait for all of them. Does not change a result (to rounding)."""
    gpus_per_worker: float = Field(1.0, gt=0, le=1)
    """GPU that a training process takes; a share lets small trials of a sweep use one together. Changes no result."""
    control: bool = True
    """Also train the control: the same student with the unaligned teacher's labels."""


class Evaluate(Section):
    """evaluate: is it closer to people, and no worse at anything else?"""

    num_samples: int = 20
    """Random images per object that a score is averaged over where objects have several images."""
    triplets: int = Field(1_000_000, ge=1)
    """Triplets of test objects to score: all of them, or so many drawn at random where there are more."""
    bootstrap: int = Field(1000, ge=20)
    """Resamplings of the test objects that the intervals come from."""
    models: tuple[str, ...] = ()
    """More models to score beside the run's own, each at its own input size: spellings as embed.model;
    `models:/NAME@ALIAS` in MLflow's registry; stored embeddings of the judged objects' images (`embed/ID`, or a .npy or
    .safetensors file beside a CSV with a column `path`)."""
    ood: str | None = None
    """Folder of images from elsewhere in class folders, ImageNet-A, say: are they told from the judged objects' images,
    and recognised where a class has their name?"""
    maps: Literal["pca", "umap"] = "pca"
    """Two-dimensional maps of the report: principal components, or UMAP (package umap-learn)."""
    margin: float = Field(0.02, ge=0)
    """A student is fit to replace its base if agreement with people rises by at least this (a fraction) ..."""
    tolerance: float = Field(0.01, ge=0)
    """... and no generalisation score falls by more than this (a fraction)."""
    answers: str | None = None
    """Odd-one-out answers on single images, kept out of the run (Levels, say): a table with columns image0, image1,
    image2 (paths of judged objects' images), choice (position of the odd one, from 1) and, if known, level,
    participant, rt."""
    columns: tuple[str, ...] = ()
    """OURS=THEIRS for each column of `answers` that has another name."""
    choices: str | None = None
    """Two-alternative choices in the layout of NIGHTS: ref_path, left_path, right_path, left_vote, right_vote."""
    matrix: str | None = None
    """People's similarities between all objects (.npy, .csv, .mat; participants x m x m is averaged)."""
    matrix_kind: Literal["similarity", "distance"] = "similarity"
    """What the values of `matrix` are."""
    shots: tuple[int, ...] = (1, 5)
    """Images per object that few-shot classifiers learn from (objects with more images than that take part)."""


class Register(Section):
    """register: the student into MLflow's model registry."""

    name: str = "alignet-student"
    """Registered model name."""
    alias: str = "candidate"
    """Alias that the new version gets."""


class Sweep(Section):
    """sweep: try settings of `align` or of `distill`. None of these changes what a trial makes."""

    space: tuple[str, ...] = ()
    """What is tried, fields of one stage: `align.lr=loguniform(1e-3,1e-1)`; or uniform(low,high), randint or
    lograndint (both bounds included), choice(a,b,...), grid(a,b,...)."""
    trials: int = Field(12, ge=1)
    """Settings to try, the given ones first; a larger number continues a sweep."""
    searcher: Literal["random", "optuna"] = "random"
    """Draw settings at random, or near those that did well (package optuna)."""
    halving: int = Field(2, ge=0)
    """At a quarter and a half of the steps the best one in this many goes on (ASHA, live metric of validation; with 3:
    at a ninth and a third); 0: all are trained to the end."""
    repeats: int = Field(0, ge=0)
    """The best three, the given settings and the best of each alternative (a choice of words, as for distill.batching)
    are trained so many times more, with other seeds, before one is chosen."""
    minutes: float | None = None
    """Trials are stopped after this time, to go on later; the best finished one is chosen."""
    concurrent: int | None = None
    """Trials at a time; left out: as many as the machine or cluster has room for."""
    full: bool = True
    """Run the winner through the rest of the line up to its evaluation; its trial is reused."""
