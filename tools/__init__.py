"""Set-up, running a notebook, handing in, Colab."""
