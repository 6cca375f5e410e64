"""Models, data, training and claims of the book.

The two wings have a package each, ``prompt_attention`` and ``prefix_tuning``; what they use
together lies beside them: ``attention``, ``training``, ``runs``, ``claims``, ``plotting``,
``progress``. What one chapter uses is not here but with the chapter. Importing ``promptlib`` loads
none of them, so that the workflow can read experiment plans without loading torch.
"""

__version__ = "1.0.0"
