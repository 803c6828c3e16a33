"""Human data: odd-one-out responses, similarity matrices, and the annotated objects that they are about."""
