"""The masks of a round as files that other programs read, with what each pixel comes from."""
