"""Networks: backbones from timm, students with a triplet head, and how to load them."""
