"""study: the same settings on several folds of the objects, so that every object is a test object once."""
