"""Our masks in the jobs of the watched task, beside the shapes of people."""
