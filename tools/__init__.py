"""Set-up, running a notebook, packing a submission, Colab."""
