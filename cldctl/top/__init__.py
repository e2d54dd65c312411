"""`cldctl top`: the runs of a folder as a screen that stays up to date. The only package that
imports textual."""
