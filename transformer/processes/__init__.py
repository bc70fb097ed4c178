"""How a sequence is lost, and how it is found again.

A process leads from nothing (time 0) to the data (time 1). Training hides what a
sequence has at a random time and asks the model for it (`objectives/denoising.py`);
generation starts from nothing and takes steps along the same times
(`generation/process_sampler.py`). Writing word by word, unmasking and flowing are three values
of one type: `autoregressive`, `masked`, `flow`.
"""
