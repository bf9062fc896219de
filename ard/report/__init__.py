"""What a compression did: values, the HTML page, plots."""
