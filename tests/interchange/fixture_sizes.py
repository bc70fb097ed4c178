"""Sizes of the fixtures that `make_fixtures.py` makes: a vocabulary of a prime number,
tokens of a row, and new tokens of greedy decoding."""

VOCAB, LENGTH, NEW_TOKENS = 67, 20, 16
