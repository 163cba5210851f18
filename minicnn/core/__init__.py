"""The library in plain NumPy, complete and correct: `minicnn/__init__.py` says in which order to read the files.

Every formula that the documentation explains is computed here. A backend may compute the operations of
`operations.py` in another way; it never changes what they mean.
"""
