"""Transformers whose weights are written down: what one virtual token can make them say.

``transformer``    the model: residual stream, attention, MLPs, greedy decoding;
``pieces``         reading a position, looking up in a table, the nearest symbol, each with a proof;
``unpacking``      a network of ReLUs that takes a number apart into digits;
``unconditional``  one virtual token, any sequence;
``conditional``    virtual tokens, any map from prompts to answers;
``bounds``         how cold attention has to be, and how large a vocabulary may be;
``symbols``        which symbols and maps may be asked for.
"""
