"""`cldctl top`: a live screen of runs. The only package that imports textual."""
