"""The pages of `hvsa-agent dashboard`, for a lead. They read what `enrolled` reads."""
