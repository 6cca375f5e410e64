"""The theorems about prefixes, inside the architectures that people use.

GPT-2 and LLaMA as `transformers` writes them, prefixes as `peft` and as hand-filled caches make
them, and a pretrained sentence encoder. These libraries are an optional extra (``EXTRAS=real``):
`extra` says whether it is installed and can always be imported;
every other module here needs it to do its work.
"""
