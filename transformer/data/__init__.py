"""From what there is to batches of rows, in reading order.

cache       prepared once per machine: whole or not at all, sealed, locked
suite/      the real data shipped with the project, its records, and how it was built
documents   a Text: two splits of documents, streamed in pieces
records     Records: every other kind, as aligned arrays; their batches
fields      ... but maps on a grid that change with time
own         the user's text; own_images, own_pairs, ... their other files
published   text out of TFDS, the shipped members among it
tables      ... images, pairs and captions
sources     text, images, pairs, captions, fields, episodes: the one door to each
tokenizers  text <-> numbers: bytes, characters, byte-level BPE
tokens      a split as a memory-mapped array
packing     batch(step, rows): training rows and validation rows
first_fit   ... of whole documents, for many short ones
mixing      ... of several supplies in stated shares
patches     grids of pixels <-> sequences of raw patches
augment     pictures moved a little, for training
climate     fields as departures from their climate, and what their past tells
"""
