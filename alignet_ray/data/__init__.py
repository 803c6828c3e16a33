"""Tables between stages: schemas, embeddings, and the formats of other projects."""
