"""Sections of the stages, in pipeline order, of studies and of sweeps."""

from typing import Annotated, Literal

import tyro
from pydantic import AfterValidator, Field, model_validator

from alignet_ray.config.names import check_alias, check_model_name
from alignet_ray.config.sections import InputPath, RuntimeOnly, Section

Compute = Literal["float32", "tf32", "bfloat16"]
"""Number formats of networks. tf32: on a GPU, factors of products have 11 binary digits, which is several times as fast
as float32 with all its 24; on a CPU it is float32. bfloat16: 8 digits, and half the memory."""

CPU_CHECKPOINT_SECONDS = 30.0
GPU_CHECKPOINT_SECONDS = 180.0
"""Seconds between checkpoints. Students on GPUs are larger, and a notice before a machine goes makes one more."""

MIN_CANDIDATES = 3
"""Fewer numbers of clusters make no curve with a bend in it."""


class Embed(Section):
    """embed: images -> embeddings of the frozen teacher."""

    from_: Annotated[InputPath[str | None], tyro.conf.arg(name="from")] = Field(None, alias="from")
    """Stored features in place of the teacher: .npy, .npz, .safetensors or .parquet, or a folder by thingsvision. With
    names (a CSV beside it, or names inside) rows are matched to images by path; without names there is one row for each
    object. Without `corpus.path` nothing but these features is read, and no student is trained."""
    model: tuple[str, ...] = ("vit_so400m_patch14_siglip_384.webli",)
    """The teacher: a timm name (pretrained weights), `NAME@FILE` (local checkpoint), `pip:efficientnet-lite0`,
    `random:NAME`, or a folder written by `distill`. Embeddings of several models are concatenated."""
    size: int | None = Field(None, ge=1)
    """Side of the square input in pixels. Default: the model's own."""
    batch_size: RuntimeOnly[int | None] = Field(None, ge=1)
    """Images per forward pass. Default: 256 on a GPU (fewer if memory is short), else 32."""
    actors: RuntimeOnly[int | None] = Field(None, ge=1)
    """Embedding actors. Default: two per GPU; without GPUs one per two cores, at least two."""
    readers: RuntimeOnly[int | None] = Field(None, ge=0)
    """Processes that read and decode images for the actors; 0: each actor reads its own. Default: the cores that GPU
    actors leave free; 0 without GPUs."""
    resize: RuntimeOnly[Literal["auto", "device", "reader"]] = "auto"
    """Where images are resized: on the network's device or by the reader. auto: on the device if it is a GPU."""
    compile: RuntimeOnly[Literal["auto", "on", "off"]] = "auto"
    """Compile the forward pass. auto: on a GPU, once that saves time on the remaining images."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored embeddings."""
    compute: Compute = "float32"
    """Number format of the forward pass; the other two are meant for GPUs."""
    decode: Literal["exact", "fast"] = "exact"
    """`fast` decodes JPEGs much larger than the network's input at reduced size and, without a GPU, resizes with 8-bit
    kernels; the log reports the cosine similarity to exact embeddings."""
    layer: str = "pre_logits"
    """The teacher's layer: `pre_logits`, `patch_mean` (mean of the last patch tokens) or `block:N` (mean after block
    N)."""
    max_bad: RuntimeOnly[float] = Field(0.01, ge=0, le=1)
    """Largest tolerated share of unreadable images."""


class Soften(Section):
    """soften: human responses -> a probabilistic model of human choices."""

    model: Literal["vice", "trace_norm", "auto"] = "vice"
    """Model of people's choices: `vice` knows how sure it is and needs some 50 answers for each object; `trace_norm`
    predicts better from fewer; `auto` takes the one that predicts held-out answers better."""
    forecast: bool = False
    """Measure how far more answers would help, by fits to some of them: the report shows it."""
    dims: int = Field(100, ge=1)
    """Initial number of dimensions."""
    num_samples: int = Field(50, ge=1)
    """Posterior samples that a choice probability is averaged over."""
    seeds: int = Field(1, ge=1)
    """Number of fits with different seeds, run as Ray tasks; the best one is kept, and their reproducibility is
    reported."""
    steps: int = Field(1250, ge=1)
    """Optimiser steps of a fit."""
    kl_anneal: float = Field(0.3, ge=0, le=1)
    """Share of the steps over which the weight of the prior grows to 1. If this is too short, all dimensions vanish."""
    batch_size: int = Field(8192, ge=1)
    """Responses per step."""
    lr: float = Field(1e-2, gt=0)
    """Learning rate of Adam."""
    spike: float = Field(0.25, gt=0)
    """Standard deviation of the prior's spike."""
    slab: float = Field(1.0, gt=0)
    """Standard deviation of the prior's slab."""
    pi: float = Field(0.5, gt=0, lt=1)
    """Prior weight of the spike."""


class Network(Section):
    """align.map network: fine-tune the teacher network itself on human choice probabilities."""

    metric: Literal["classes", "plain"] = "classes"
    """Metric between features of images: `classes` weighs features as the network's own classifier does (if its weights
    include one), `plain` uses them as they are."""
    temperature: float | None = Field(None, gt=0)
    """Temperature of the kernel regression over annotated images (on cosines). Default: chosen so that training objects
    predict each other best."""
    own_weight: float = Field(0.0, ge=0)
    """Weight of an image's own direction beside its predicted human dimensions: it keeps images apart that people find
    alike. 0: dimensions alone."""
    steps: int = Field(30, ge=0)
    """Updates; validation objects choose the best one. 0: keep the pretrained network and only fit the kernel
    regression."""
    batch_size: int = Field(96, ge=3)
    """Objects per update over all workers, with one random image each."""
    compute: Compute = "float32"
    """Number format of forward and backward passes, as `distill.compute`."""
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate of Adam: linear warm-up, then cosine decay to 0."""
    decay_to_init: float = Field(1.0, ge=0)
    """Strength of the decay towards the pretrained weights (L2-SP), relative to the learning rate; preserves local
    structure."""
    locality: float = Field(0.0, ge=0)
    """Weight of gLocal's local term, which preserves each image's neighbours (costs a forward pass of the base)."""
    interpolation: float = Field(1.0, gt=0)
    """Interpolation between the pretrained weights (0) and the fine-tuned ones (1); the report shows the trade-off."""
    embedding_loss_weight: float = Field(1.0, ge=0)
    """Weight of the same loss on cosines of the embedding (`pre_logits`)."""
    similarity_spread: float = Field(1.0, gt=0)
    """Target spread of these cosines within triplets, relative to the pretrained network. Larger values agree better
    with people and lose more recognition of single objects."""
    crop: float = Field(0.8, gt=0, le=1)
    """Smallest side of random crops, as a share of the image's; half of them are flipped. 1: no augmentation."""
    every: int = Field(10, ge=1)
    """Updates between two validations, the best of which is kept."""
    workers: RuntimeOnly[int | None] = Field(None, ge=1)
    """Training processes. Default: one per GPU, or two on CPU; in a sweep one a trial."""


class Align(Section):
    """align: map the teacher's embeddings so that their similarities predict human choices."""

    from_: Annotated[InputPath[str | None], tyro.conf.arg(name="from")] = Field(None, alias="from")
    """A stored transform (.npz, .safetensors, or an align artifact) to use instead of fitting one."""
    map: Literal["affine", "low_rank", "diagonal", "orthogonal", "network"] = "low_rank"
    """Form of the map."""
    rank: int = Field(100, ge=1)
    """Principal dimensions that a low-rank map acts on."""
    objective: Literal["soft", "hard"] = "soft"
    """Learn the choice probabilities of the human model for any triplet (soft), or the recorded responses only
    (hard)."""
    alpha: float = Field(0.0, ge=0, lt=1)
    """Weight of gLocal's local term, which preserves each image's neighbours; 0 disables it."""
    tau: float = Field(0.1, gt=0)
    """Temperature of the local term."""
    folds: int = Field(3, ge=0)
    """Object-wise cross-validation folds over the training objects; 0 disables cross-validation."""
    search: int = Field(0, ge=0)
    """Number of settings (penalty, learning rate, rank, local term) that Ray Tune tries on all folds, starting with the
    given ones; the best is then fitted."""
    network: Network = Network()
    """Settings of `align.map network`."""
    identity_penalty: float = Field(5e-4, ge=0)
    """Weight of the penalty that pulls the map's weights to a multiple of the identity, for features of unit mean
    square norm."""
    lr: float = Field(1e-2, gt=0)
    """Learning rate of Adam."""
    steps: int = Field(2000, ge=1)
    """Largest number of optimiser steps; early stopping uses the cross-entropy of validation objects."""
    batch_size: int = Field(8192, ge=1)
    """Object triplets per step."""
    patience: int = Field(10, ge=1)
    """Validations (one every 20 steps) without improvement before the fit stops."""
    triplets: int = Field(300_000, ge=1)
    """Largest number of distinct training triplets."""


class Cluster(Section):
    """cluster: k-means over the corpus."""

    k: int = Field(500, ge=2)
    """Number of clusters ("superordinate categories")."""
    candidates: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Numbers of clusters to compare on a sample of the images; the one selected by `choose` replaces k."""
    choose: Literal["elbow", "silhouette"] = "elbow"
    """How a candidate is selected: elbow of the inertia curve, or highest mean silhouette."""
    space: Literal["aligned", "raw"] = "aligned"
    """Cluster the aligned or the raw embeddings."""
    spherical: bool = False
    """Spherical k-means: rows and centroids have unit length."""
    restarts: int = Field(1, ge=1)
    """Fits from different k-means++ seeds; the one with the lowest inertia is kept."""
    iterations: int = Field(50, ge=1)
    """Largest number of Lloyd iterations."""
    tolerance: float = Field(1e-4, ge=0)
    """Stop when an iteration lowers the inertia by less than this share."""
    reassign_tol: float = Field(1e-3, ge=0, le=1)
    """Stop when an iteration reassigns less than this share of the images."""
    sample: int = Field(20_000, ge=1)
    """Random images used for k-means++ seeding and for comparing candidates; at least 20 per cluster are taken."""

    @model_validator(mode="after")
    def _candidates_make_a_curve(self) -> "Cluster":
        if self.candidates and len(set(self.candidates)) < MIN_CANDIDATES:
            raise ValueError("cluster.candidates must be three or more different numbers from 2 up")
        return self


class Label(Section):
    """label: draw image triplets and label the odd one out with the teacher.

    The six kinds of triplets are mixed in proportion to their weights.
    """

    from_: Annotated[InputPath[str | None], tyro.conf.arg(name="from")] = Field(None, alias="from")
    """Labelled triplets in DeepMind's format (.npz) to use instead of drawing; images are matched by file name."""
    from_valid: InputPath[str | None] = None
    """Validation triplets in that format. Default: those of `label.from` whose images are all held out."""
    train: int = Field(100_000, ge=1)
    """Training triplets, exactly."""
    valid: int = Field(10_000, ge=1)
    """Validation triplets; a small corpus gives fewer."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of images held out: validation triplets use only these, training triplets none of them."""
    cluster_border: float = Field(1.0, ge=0)
    """Weight of triplets with two images of one cluster and one of another."""
    within_cluster: float = Field(0.0, ge=0)
    """Weight of triplets within one cluster."""
    class_border: float = Field(0.0, ge=0)
    """Weight of triplets with two images of one class (folder) and one of another."""
    within_class: float = Field(0.0, ge=0)
    """Weight of triplets within one class."""
    between_class: float = Field(0.0, ge=0)
    """Weight of triplets of three different classes."""
    uniform: float = Field(0.0, ge=0)
    """Weight of triplets of any three images."""

    @model_validator(mode="after")
    def _something_is_drawn(self) -> "Label":
        weights = (
            self.cluster_border,
            self.within_cluster,
            self.class_border,
            self.within_class,
            self.between_class,
            self.uniform,
        )
        if not self.from_ and not any(weights):
            raise ValueError("all kinds of triplets have weight 0: give one a weight, as in --label.cluster-border 1")
        return self


IMAGES_PER_DRAW = 4
"""Images that a training chooses from, for each one that it draws."""


class Distill(Section):
    """distill: train the student on the teacher's similarity judgements."""

    model: str = "vit_base_patch16_siglip_224.webli"
    """The student's backbone, named as in `embed.model`."""
    size: int | None = Field(None, ge=1)
    """Side of the square input in pixels. Default: the model's own."""
    squash: bool = False
    """Squash whole images to the square input, with values in [0, 1], as AligNet's released students do, instead of the
    model's own transform. Stored with the student."""
    batching: Literal["in_batch", "triplets"] = "in_batch"
    """`in_batch`: all triplets within a batch of distinct images, labelled on the fly by the teacher's embeddings
    (needs several times fewer images). `triplets`: the labelled triplets, three images each, as published."""
    steps: int = Field(1000, ge=1)
    """Updates."""
    batch_size: int = Field(128, ge=3)
    """Images (`in_batch`) or triplets (`triplets`) per update, over all workers."""
    in_batch_triplets: int = Field(16_384, ge=1)
    """Largest number of triplets within a batch that enter the loss."""
    per_cluster: int = Field(0, ge=0)
    """`in_batch`: draw this many images from each of batch_size / per_cluster clusters; 0: draw uniformly."""
    in_batch_kinds: Literal["any", "label"] = "any"
    """Triplets within a batch: any three of its images, or the kinds of `label` in its weights (most of them need
    `per_cluster`, as few images of a random batch share a cluster)."""
    objective: Literal["jsd", "kld", "contrastive"] = "jsd"
    """Divergence between the teacher's and the student's choice probabilities."""
    tau: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Temperature of the head's dot products. `auto`: matches their spread to that of the teacher's similarities."""
    normalize: bool = False
    """Normalise the head's outputs to unit length before the dot products."""
    head: int = Field(1024, ge=0)
    """Width of the triplet head; 0: no head, the loss applies to the embedding itself."""
    embedding_loss_weight: float = Field(1.0, ge=0)
    """Weight of the same loss on cosines of the embedding (`pre_logits`), beside the head's."""
    similarity_spread: float = Field(1.0, gt=0)
    """Target spread of these cosines within triplets, relative to the pretrained network. Larger values agree better
    with people and lose more few-shot recognition of similar objects."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate of Adam: linear warm-up, then cosine decay to 0."""
    warmup: float = Field(0.1, ge=0)
    """Warm-up: a share of all updates if below 1, else a number of updates."""
    decay_to_init: float = Field(1.0, ge=0)
    """Strength of the decoupled decay towards the initial weights (L2-SP), relative to the learning rate."""
    l2_to_init: float = Field(0.0, ge=0)
    """Weight of half the squared distance to the initial weights in the loss (L2-SP as a loss term)."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each layer group relative to the next one; the head uses `lr`."""
    hard_fraction: float = Field(1.0, gt=0, le=1)
    """Share of an update's triplets that enter the loss: those with the largest loss."""
    grad_clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient. Default: no clipping."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """EMA decay of the weights; 0 disables it."""
    interpolation: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """The finished student's place between its pretrained weights (0) and its trained ones (1); the head stays as
    trained. `auto`: as near to people as possible while telling objects apart loses one point at most, on validation
    objects, and two thirds of the neighbours stay; the report shows the trade-off. 1: as published."""
    batch_norm: Literal["frozen", "train"] = "frozen"
    """Keep the pretrained statistics of BatchNorm layers, or update them (each worker from its own images)."""
    trainable: Annotated[int, Field(ge=1)] | Literal["all", "head"] = "all"
    """What is trained: everything, the head alone, or the head and this many of the last layer groups."""
    crop: float = Field(1.0, gt=0, le=1)
    """Smallest side of random crops, as a share of the image's, with random flips. 1: no augmentation."""
    compute: Compute = "float32"
    """Number format of forward and backward passes; bfloat16 by autocast. The weights are float32 in any case."""
    micro_batch: int | None = Field(None, ge=1)
    """Images per forward pass of a worker, to save memory (gradient caching; costs a second forward pass). The result
    stays the same to rounding, unless `batch_norm` is `train`. Default: all at once; half as many whenever a GPU's
    memory is too small for that, where the result stays the same."""
    compile: RuntimeOnly[bool] = False
    """Compile the network (worthwhile on a GPU)."""
    cache_pixels: RuntimeOnly[Literal["auto", "on", "off"]] = "auto"
    """Decode and resize every image once into a memory-mapped file; otherwise decode images whenever they are drawn.
    auto: where student and control draw more images than there are."""
    locality: float = Field(0.0, ge=0)
    """Weight of gLocal's local term, which preserves each image's neighbours (costs a forward pass of the base)."""
    class_retention: float = Field(0.0, ge=0)
    """Weight of a term that keeps the classes that the network was trained with (learning without forgetting; costs a
    forward pass of the base). Needs weights that come with their classifier."""
    valid: RuntimeOnly[int] = Field(500, ge=1)
    """Validation triplets used during training."""
    valid_every: RuntimeOnly[int] = Field(100, ge=1)
    """Updates between two validations."""
    log_every: RuntimeOnly[int] = Field(20, ge=1)
    """Updates between two rows of training metrics."""
    checkpoint_every: RuntimeOnly[float | None] = Field(None, ge=0)
    """Seconds between checkpoints; the first one follows the first update, and one more follows the notice that a
    machine will be taken away. Default: 30, on GPUs 180."""
    max_failures: RuntimeOnly[int] = Field(2, ge=0)
    """How often in a row, without a new checkpoint in between, lost workers are replaced before the run fails."""
    workers: RuntimeOnly[int | None] = Field(None, ge=1)
    """Training processes. Default: one per GPU, or two on CPU; in a sweep one a trial."""
    min_workers: RuntimeOnly[int | None] = Field(None, ge=1)
    """Minimum number of workers for elastic training; training grows again when machines return. Default: wait for all
    of them."""
    gpus_per_worker: RuntimeOnly[float] = Field(1.0, gt=0, le=1)
    """GPUs per training process; a fraction lets small trials of a sweep share a GPU."""
    control: RuntimeOnly[bool] = True
    """Also train the control: the same student with labels of the unaligned teacher."""

    @property
    def images_per_step(self) -> int:
        """Images that are forwarded in one update."""
        if self.batching == "in_batch":
            return self.batch_size
        return 3 * self.batch_size

    def images_to_choose_from(self, images: int) -> int:
        """How many images of a corpus training chooses from: a few for each one that it draws, or all there are.

        More of a huge corpus would fill memory with paths, and change nothing: random images of random ones are random.
        """
        return min(images, IMAGES_PER_DRAW * self.steps * self.images_per_step)

    def packs(self, images: int) -> bool:
        """Whether training caches the pixels of a corpus of so many images.

        Of a billion images a training draws a small part: to pack them all would take days, and most of a data centre.
        """
        if self.cache_pixels != "auto":
            return self.cache_pixels == "on"
        trainings = 1 + int(self.control)
        return trainings * self.steps * self.images_per_step > images

    def checkpoint_seconds(self, on_gpu: bool) -> float:
        """Seconds between checkpoints: those given, or the default of the device."""
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        if on_gpu:
            return GPU_CHECKPOINT_SECONDS
        return CPU_CHECKPOINT_SECONDS

    @model_validator(mode="after")
    def _batches_can_be_divided(self) -> "Distill":
        if self.batching == "in_batch" and self.per_cluster > self.batch_size:
            raise ValueError(
                f"--distill.per-cluster {self.per_cluster} is more than the {self.batch_size} images of a batch: "
                "use less, or a larger --distill.batch-size"
            )
        return self


class Evaluate(Section):
    """evaluate: human agreement, generalisation, and the report."""

    num_samples: int = Field(20, ge=1)
    """Random choices of one image per object that scores are averaged over, where objects have several images."""
    triplets: int = Field(1_000_000, ge=1)
    """Largest number of triplets of test objects to score; a random sample where there are more."""
    bootstrap: int = Field(1000, ge=20)
    """Bootstrap resamples of the test objects for confidence intervals."""
    models: tuple[str, ...] = ()
    """Further models to score, each at its own input size: model names as in `embed.model`; `models:/NAME@ALIAS` in
    MLflow's registry; stored embeddings of the objects' images (`embed/ID`, or a .npy or .safetensors file beside a CSV
    with a column `path`)."""
    ood: InputPath[str | None] = None
    """Folder of out-of-distribution images in class folders (such as ImageNet-A): detection against the objects'
    images, and classification of classes with the same names."""
    maps: Literal["pca", "umap"] = "pca"
    """Two-dimensional maps of the report: principal components, or UMAP (package umap-learn)."""
    margin: float = Field(0.02, ge=0)
    """Champion gate: human agreement must exceed the base's by at least this (a fraction) ..."""
    tolerance: float = Field(0.01, ge=0)
    """... and no generalisation score may fall by more than this (a fraction)."""
    answers: InputPath[str | None] = None
    """External odd-one-out responses on single images (such as Levels): a table with columns image0, image1, image2
    (paths of objects' images), choice (position of the odd one, from 1) and optionally level, participant, rt."""
    columns: tuple[str, ...] = ()
    """Names of columns of `evaluate.answers` that differ from these, as `expected=actual`."""
    choices: InputPath[str | None] = None
    """External two-alternative choices in the layout of NIGHTS: ref_path, left_path, right_path, left_vote,
    right_vote."""
    matrix: InputPath[str | None] = None
    """External human similarities between all objects (.npy, .csv, .mat); participants x m x m is averaged."""
    matrix_kind: Literal["similarity", "distance"] = "similarity"
    """What the values of `evaluate.matrix` are."""
    sets: InputPath[tuple[str, ...]] = ()
    """Sets of human judgements with images of their own (Levels, NIGHTS, multi-arrangement, ratings): folders with a
    set.yaml, such YAML files, or folders with images/ and one file of a known layout."""
    shots: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5)
    """Training images per object of few-shot classifiers; objects with more images than that take part."""


class Register(Section):
    """register: the student into MLflow's model registry."""

    name: Annotated[str, AfterValidator(check_model_name)] = "alignet-student"
    """Name of the registered model."""
    alias: Annotated[str, AfterValidator(check_alias)] = "candidate"
    """Alias of the new version."""


class Study(Section):
    """study: the same settings on every fold of the objects, with several seeds."""

    folds: RuntimeOnly[int] = Field(5, ge=3, le=100)
    """Folds of the objects: in each run one of them is tested, so that every object is a test object once."""
    seeds: RuntimeOnly[int] = Field(1, ge=1, le=100)
    """Seeds, counted up from `seed`; each divides the objects anew and trains anew."""
    concurrent: RuntimeOnly[int] = Field(1, ge=1, le=1000)
    """Runs at a time, on a cluster with room for several. What they share is made once, before them."""
    chosen: RuntimeOnly[str] = ""
    """How these settings were chosen, in a sentence for the page: on which objects, with which seeds, of how many."""


class Sweep(Section):
    """sweep: search hyperparameters of `align` or of `distill`."""

    space: RuntimeOnly[tuple[str, ...]] = ()
    """Search space over fields of one stage, such as `align.lr=loguniform(1e-3,1e-1)`; also uniform(low,high), randint
    and lograndint (both bounds included), choice(a,b,...), grid(a,b,...)."""
    trials: RuntimeOnly[int] = Field(12, ge=1)
    """Number of trials, starting with the given settings; a larger number continues an earlier sweep."""
    searcher: RuntimeOnly[Literal["random", "optuna"]] = "random"
    """Random search, or Optuna's TPE (package optuna)."""
    halving: RuntimeOnly[int] = Field(2, ge=0)
    """Reduction factor of successive halving (ASHA, on the validation metric). 2: the best half goes on at a quarter
    and at a half of the steps; 3: the best third at a ninth and at a third; 0 disables it."""
    repeats: RuntimeOnly[int] = Field(0, ge=0)
    """Repetitions with other seeds of the best three settings, the given ones and the best of each categorical choice
    (such as distill.batching), before one is selected."""
    minutes: RuntimeOnly[float | None] = Field(None, gt=0)
    """Time limit; unfinished trials can be continued later. Default: none."""
    concurrent: RuntimeOnly[int | None] = Field(None, ge=1)
    """Concurrent trials. Default: as many as the machine or cluster can hold."""
    full: RuntimeOnly[bool] = True
    """Run the selected settings through the rest of the pipeline up to evaluation, reusing the trial's artifacts."""
