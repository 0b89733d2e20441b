"""Tools beside the product: what makes data for it."""
