"""A small local web page: three pictures, and which of them is the odd one for the base and for the aligned student."""
