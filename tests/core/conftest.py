import torch

# The tensors of these tests are small: a second thread costs more than it brings, and much where others compute.
torch.set_num_threads(1)
