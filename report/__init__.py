"""What nbconvert makes of a notebook: the two-column paper."""
