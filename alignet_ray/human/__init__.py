"""What people said: odd-one-out responses, similarity matrices, and the objects that they are about."""
