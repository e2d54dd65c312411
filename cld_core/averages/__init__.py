"""Averages of the weights after the fact: power-function averages, their snapshots, and any other length from them.

Training keeps a few averages whose memory is a fixed fraction of the training (`tracked`) and stores them now and then
(`snapshots`, `writing`). A least-squares fit of profiles (`profiles`) makes averages of other lengths out of the stored
ones (`reconstruct`). Karras et al. 2023, arXiv 2312.02696, section 3 and appendix C; docs/math.md, "Averages after the
fact".
"""
