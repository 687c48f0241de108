"""The specification in plain Python: integers, fractions and decimals, no NumPy, nothing of the rest of the package.

What the fast code must give, written so that it can be read as mathematics: number formats and their one rounding,
real numbers that are enclosed as tightly as a comparison needs, every op, and a whole forward pass.
"""
