"""Which models of one layer can be right on every bag of a contextual mixture?"""
