"""What ``train`` makes of a configuration: a file per kind of model, each with its settings beside what they build."""
