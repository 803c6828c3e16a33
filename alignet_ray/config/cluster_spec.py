"""The cluster that `alignet-ray plan --on.*` reckons with; it need not exist."""

from pydantic import Field

from alignet_ray.config.sections import Section


class ClusterSpec(Section):
    """The cluster that a plan is for."""

    images: int = Field(1_281_167, ge=1)
    """Images of the corpus; the default is ImageNet's training set."""
    annotated: int = Field(26_107, ge=0)
    """Images of the annotated objects; the default is THINGS."""
    gpus: int = Field(8, ge=1)
    """GPUs."""
    cores: int = Field(16, ge=1)
    """CPU cores beside each GPU."""
    memory: float = Field(128, gt=0)
    """Main memory beside each GPU, GB."""
    gpu_memory: float = Field(80, gt=0)
    """Memory of each GPU, GB."""
    machine_gpus: int = Field(8, ge=1)
    """GPUs of each machine."""
    losses: float = Field(0, ge=0)
    """How often a day each machine is taken away (spot); another one takes its place."""
    download: float = Field(100, gt=0)
    """What arrives of pretrained weights, MB/s."""
    read: float = Field(2_000, gt=0)
    """What the storage of images and results delivers to the whole cluster, MB/s."""
    latency: float = Field(0, ge=0)
    """Time in which the storage begins to answer a request for a file, ms: 0 for a local one, some 30 for an object
    store."""
    head_memory: float = Field(32, gt=0)
    """Main memory of the head, GB: the driver holds ids and clusters of all images in it."""
    image_kb: float = Field(114, gt=0)
    """Mean size of an image file, kB."""
    gpu_hour: float = Field(3.0, ge=0)
    """Price of one GPU with its cores for an hour, dollars."""
    gb_month: float = Field(0.1, ge=0)
    """Price of a GB of storage for a month, dollars."""
    elastic: bool = False
    """Workers come and go with the work (autoscaling): steps of the driver alone cost no GPU hours."""
    decode: float | None = Field(None, gt=0)
    """Images that one core decodes and resizes in a second; default: the figure that the plan rests on."""
    forward: float | None = Field(None, gt=0)
    """Images that the teacher embeds in a second on one GPU; default: the figure that the plan rests on."""
    step: float | None = Field(None, gt=0)
    """Images that the student is trained on in a second on one GPU; default: the figure that the plan rests on."""
