"""From text to batches of rows, in reading order.

cache       prepared once per machine: whole or not at all, sealed, locked
suite/      the text shipped with the project, its record, and the script that built it
documents   a Text: two splits of documents, streamed in pieces
own         ... from the user's file or folder
published   ... from TFDS, the shipped members among them
sources     text(name or path): the one door
tokenizers  text <-> numbers: bytes, characters, byte-level BPE
tokens      a split as a memory-mapped array
packing     batch(step, rows): training rows and validation rows
first_fit   ... of whole documents, for many short ones
mixing      ... of several supplies in stated shares
"""
