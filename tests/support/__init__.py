"""What several tests share: a small trained corpus, a cluster on this machine, a pretended GPU, the type checker."""

from support import typechecker  # jaxtyping finds the checker as an attribute of this package

__all__ = ["typechecker"]
