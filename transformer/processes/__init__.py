"""Generative processes: corruption for training, steps for sampling.

A process leads from the prior (time 0) to the data (time 1). Training corrupts a
sequence at a random time and predicts what was lost (`objectives/denoising.py`);
sampling starts from the prior and takes steps along the same times
(`generation/process_sampler.py`). `autoregressive`, `masked_diffusion` and
`flow_matching` make values of one type, `process.Process`.
"""
