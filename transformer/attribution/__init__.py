"""What a prediction rests on, and whether that is true.

rollout.py    attention matrices of all layers -> how much of each token reaches each
gradients.py  a prediction and its slopes      -> how much each token argues for it
erasing.py    an order of tokens               -> what is left without the first of them
probes.py     features and labels              -> what a simple reader makes of them
judging.py    a trained classifier             -> what it says of any images
pictures.py   all this                         -> figures
"""
