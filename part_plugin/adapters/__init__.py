"""One module per toolkit, imported when one of its names is first used."""
