"""Runs: one experiment trained on one data set, and the folder that keeps all of it."""

from fmnist_xp.runs.folder import CONFUSION, check_folder, default_folder
from fmnist_xp.runs.listing import list_runs
from fmnist_xp.runs.run import Run, load_run, own_classes
from fmnist_xp.runs.settings import Result, Settings, dataset_sha256, versions
from fmnist_xp.runs.training import resume_run, train_run

__all__ = ["CONFUSION", "Result", "Run", "Settings", "check_folder", "dataset_sha256", "default_folder", "list_runs"]
__all__ += ["load_run", "own_classes", "resume_run", "train_run", "versions"]
