"""Models as users hold them: loading, caches, sampling, generation, memory."""
