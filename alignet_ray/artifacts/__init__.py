"""Typed views of the artifacts: the only modules that know which files, columns and JSON keys an artifact holds."""
