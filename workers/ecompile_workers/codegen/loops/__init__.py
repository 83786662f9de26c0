"""A graph as nests of loops over single numbers, for languages other than C: short and portable rather than fast."""
