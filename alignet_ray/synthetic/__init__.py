"""The generated world of the preset `smoke`: images, simulated people, and a base network."""
