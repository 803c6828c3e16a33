"""Named presets: each returns a complete `Config`, and its docstring gives the command.

Values that a paper fixes are written here with their source, and nowhere else.
"""

from collections.abc import Callable

from alignet_ray.config import Align, Cluster, Config, Corpus, Distill, Embed, Label, Network, Soften

SO400M = ("vit_so400m_patch14_siglip_384.webli",)
SIGLIP_B = "vit_base_patch16_siglip_224.webli"


def smoke() -> Config:
    """The whole pipeline on a generated world with known ground truth: under five minutes on two cores.

    alignet-ray run smoke
    """
    return Config(
        name="smoke",
        corpus=Corpus(path="synthetic:smoke"),
        embed=Embed(model=("synthetic:smoke",)),
        soften=Soften(dims=30, steps=500, batch_size=4096),
        align=Align(map="affine", folds=0),
        cluster=Cluster(k=8),
        label=Label(train=20_000, valid=2_000),
        distill=Distill(model="synthetic:smoke", steps=120, batch_size=96, lr=2e-3, decay_to_init=0.3, head=64),
    )


def sample() -> Config:
    """A few hundred real images and real pretrained weights at 128 px: some twenty minutes on two cores.

    The teacher network is fine-tuned on human choice probabilities. `--align.map low_rank` fits a linear map instead,
    which takes seconds and improves agreement less.

    alignet-ray run sample --corpus.path DIR --objects.table CSV --human.triplets FILE
    """
    return Config(
        name="sample",
        embed=Embed(model=("pip:efficientnet-lite0",), size=128),
        align=Align(map="network", network=Network(own_weight=2.0)),
        cluster=Cluster(k=30),
        label=Label(train=100_000, valid=10_000),
        distill=Distill(
            model="pip:efficientnet-lite0",
            size=128,
            steps=200,
            batch_size=64,
            per_cluster=4,
            lr=7e-4,
            layer_decay=0.7,
            crop=0.8,
            class_retention=0.02,
        ),
    )


def sample_224() -> Config:
    """`sample` at the networks' full resolution of 224 px: about three times as long.

    alignet-ray run sample_224 --corpus.path DIR --objects.table CSV --human.triplets FILE
    """
    return sample().replace(name="sample_224", embed__size=224, distill__size=224)


def mine() -> Config:
    """Your own pictures, from some fifty objects on, and people's answers about them: minutes on two cores.

    alignet-ray run mine --corpus.path IMAGES --human.triplets FILE

    Or --human.comparisons FILE. Class folders or files that are called like the objects need no --objects.table.
    Triplets are drawn from all pictures, as few objects make no categories, and the student is trained for few steps.
    """
    return sample().replace(
        name="mine",
        soften__model="auto",
        soften__forecast=True,
        soften__dims=30,
        soften__batch_size=2048,
        align__network__batch_size=48,
        cluster__k=4,
        label__cluster_border=0.0,
        label__uniform=1.0,
        label__train=1_000,
        label__valid=100,
        distill__steps=80,
        distill__batch_size=32,
        distill__per_cluster=0,
        # Materials and shoes are none of the classes that pretrained networks know; nothing was measured with them.
        distill__class_retention=0.0,
    )


def features() -> Config:
    """Features that somebody else computed, in place of images: the teacher alone.

    alignet-ray run features --embed.from FILE --human.triplets FILE

    One row for each object of the human data; rows with names need --objects.table as well.
    """
    return Config(name="features", align=Align(map="affine"))


def imagenet() -> Config:
    """ImageNet as corpus, separate images of the annotated objects (THINGS), in-batch distillation; needs GPUs.

    alignet-ray run imagenet --corpus.path IMAGENET/train --objects.path THINGS/images --objects.table CSV
        --human.triplets trainset.txt
    """
    return Config(
        name="imagenet",
        embed=Embed(model=SO400M, batch_size=96, compute="bfloat16"),
        align=Align(map="affine"),
        cluster=Cluster(k=500),
        label=Label(train=10_000_000, valid=10_000),
        distill=Distill(
            model=SIGLIP_B,
            steps=20_000,
            batch_size=1536,
            per_cluster=8,
            in_batch_kinds="label",
            lr=3e-5,
            compute="bfloat16",
        ),
    )


def paper() -> Config:
    """The recipe of AligNet's released SigLIP-B student: the published triplets, 100,000 steps of 512 triplets.

    alignet-ray run paper --corpus.path IMAGENET/train --objects.path THINGS/images --objects.table CSV
        --human.triplets trainset.txt

    Source: the configuration released with Muttenthaler et al., Nature 2025 (google-deepmind/alignet): JSD at tau 100
    without normalisation, Dense(1024) on pre_logits, Adam at 3e-5 with 5,000 steps of warm-up in a cosine over 100,000,
    decay to the initial weights of strength 1, whole images squashed to 224 px with values in [0, 1]; the weights as
    trained, without interpolation. k = 500 clusters and 10 M + 10 k triplets: the article.

    Choices that the article leaves open, or makes otherwise: a tenth of the corpus is withheld for validation; clusters
    are those of the aligned embeddings (the release's README says the foundation model's own); the base is scored with
    its own preprocessing while the student sees values in [0, 1]; the head starts at LeCun's variance; the model of
    people's choices has a warm-up of its prior, merges like dimensions and decays its rate by a cosine; images are
    resized by antialiased bicubic interpolation; GPUs multiply in TF32, as is usual for JAX and torch on theirs.
    """
    return Config(
        name="paper",
        embed=Embed(model=SO400M, batch_size=96, compute="tf32"),
        align=Align(map="affine"),
        cluster=Cluster(k=500, space="aligned"),
        label=Label(train=10_000_000, valid=10_000),
        distill=Distill(
            model=SIGLIP_B,
            squash=True,
            batching="triplets",
            objective="jsd",
            tau=100.0,
            normalize=False,
            head=1024,
            embedding_loss_weight=0.0,
            steps=100_000,
            batch_size=512,
            lr=3e-5,
            compute="tf32",
            warmup=5_000,
            decay_to_init=1.0,
            interpolation=1.0,
        ),
    )


def published() -> Config:
    """The published chain at the size of `sample`, to compare with it: as `paper`, with the networks of `sample`.

    alignet-ray run published --corpus.path DIR --objects.table CSV --human.triplets FILE

    An affine map of the teacher's embeddings, clusters and labelled triplets, JSD by the head alone, the weights as
    trained; the updates see about as many images as those of `sample`. What cannot be taken over from SigLIP: the
    temperature is set from the teacher's similarities (tau 100 suits SigLIP's outputs), the network keeps its own
    preprocessing, and the learning rate is the best of three on simulated responses (jobs/EXPERIMENTS.md, Batching).
    """
    ours, theirs = sample(), paper().distill
    return ours.replace(
        name="published",
        align=Align(map="affine"),
        distill=Distill(
            model=ours.distill.model,
            size=ours.distill.size,
            batching=theirs.batching,
            objective=theirs.objective,
            normalize=theirs.normalize,
            head=theirs.head,
            embedding_loss_weight=theirs.embedding_loss_weight,
            decay_to_init=theirs.decay_to_init,
            interpolation=theirs.interpolation,
            steps=67,
            batch_size=64,
            lr=3e-4,
        ),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    preset.__name__: preset for preset in (smoke, sample, sample_224, mine, features, imagenet, paper, published)
}
