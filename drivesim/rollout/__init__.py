"""Minutes of video from one opening.

scenario -> plan -> stages (key-frames, decode, fill, write) -> a run folder that can be resumed.
"""
