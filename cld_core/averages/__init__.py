"""Post-hoc EMA: power-function averages of the weights, their snapshots, and averages of any other length from them.

Training tracks a few averages whose length is a fixed fraction of the training so far (`power`) and stores them at
intervals. A least-squares fit of profiles (`profiles`) reconstructs averages of other lengths from the stored ones.
Karras et al. 2023, arXiv 2312.02696, section 3 and appendix C; docs/math.md, "Averages after the fact".
"""
