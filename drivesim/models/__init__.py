"""Networks and nothing else: no noise, no loss, no files but their own weights."""
