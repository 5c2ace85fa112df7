"""Attention kernels that may take the place of ``plain_attention``, and the choice between them."""
