"""The generated world of the preset `smoke`: images, simulated human responses, and a base network."""
