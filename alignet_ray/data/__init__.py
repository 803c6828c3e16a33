"""What comes in: images, human judgements, generated worlds; and the schemas of the tables between stages."""
