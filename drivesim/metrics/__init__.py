"""Scores of video: the distance, the features that it is measured in, and the receipt that makes it comparable."""
