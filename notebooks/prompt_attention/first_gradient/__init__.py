"""How much of prompt-attention does its first gradient find?"""
