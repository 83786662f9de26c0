"""Networks for the examples, made on the spot from data that a package ships."""
