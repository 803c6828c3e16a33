"""Names of the files in a student's folder; apart from `distill`, so that a student loads without pyarrow."""

BACKBONE_FILE = "backbone.safetensors"
"""The backbone's weights; timm loads them strictly with `num_classes=0`."""

HEAD_FILE = "head.safetensors"
"""The triplet head's weights; missing where there is no head."""

MODEL_FILE = "model.json"
"""Architecture, preprocessing, head, tau and provenance."""
