"""Lists tar and Parquet files of images in Ray's tasks: thousands of them would take one machine hours."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from alignet_ray import cluster_nodes, runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images.listings import Listings
from alignet_ray.images.shards import OpenedShard, ShardOpener, open_shard
from alignet_ray.screen import Screen
from alignet_ray.stages.small_work import stays_here

LOCAL_BYTES = 1e9
"""Bytes of shards that one process opens in a second on a local disk, where it jumps from header to header."""

REMOTE_BYTES = 100e6
"""The same for a store, from which the whole file travels."""

REMOTE_CPUS = 0.25
"""CPUs of a task that opens a shard of a store: it waits for the network most of the time."""

TASKS_PER_SLOT = 2
"""Tasks that are submitted for each one that can run, so that the next one is there when it ends."""


def takes_tasks(cfg: Config, fingerprints: Mapping[str, Any]) -> bool:
    """Whether tasks are worth while for one of the folders, if its files are shards.

    Args:
        cfg: of the run.
        fingerprints: of its files and folders, see `Listings`.
    """
    return bool(_large_folders(cfg, fingerprints))


def listings_here(cfg: Config, fingerprints: Mapping[str, Any], screen: Screen | None = None) -> Listings:
    """The listings of a run whose shards are opened in this process.

    So do trials and folds, which are tasks themselves: those that they would wait for might find no CPU free.

    Args:
        cfg: of the run.
        fingerprints: of its files and folders, see `Listings`.
        screen: shows how far a long listing is; None: nothing is shown.
    """
    cache = runtime.cache_dir(cfg)
    return Listings(cache, fingerprints, ShardOpener(cache), screen)


def run_listings(cfg: Config, fingerprints: Mapping[str, Any], screen: Screen) -> Listings:
    """The listings of a run; shards of large folders are opened in tasks if Ray runs. Arguments as `listings_here`."""
    cache = runtime.cache_dir(cfg)
    folders = _large_folders(cfg, fingerprints)
    here = listings_here(cfg, fingerprints, screen)
    if not folders:
        return here

    import ray

    if not ray.is_initialized():
        return here
    at_once = max(1, cluster_nodes.cluster_resources().cpus) * TASKS_PER_SLOT
    if any("://" in folder for folder in folders):
        at_once = int(at_once / REMOTE_CPUS)
    return Listings(cache, fingerprints, ShardOpener(cache, partial(_open, folders), at_once), screen)


def _large_folders(cfg: Config, fingerprints: Mapping[str, Any]) -> frozenset[str]:
    folders: list[str] = []
    for uri, found in fingerprints.items():
        # Of single files, such as tables of answers, other things are known.
        if not isinstance(found, dict):
            continue
        rate = LOCAL_BYTES
        if "://" in uri:
            rate = REMOTE_BYTES
        if not stays_here(cfg, found["bytes"] / rate):
            folders.append(uri)
    return frozenset(folders)


def _open(large_folders: frozenset[str], uri: str, path: str) -> OpenedShard:
    """One shard, opened in a task if it belongs to a large folder."""
    import ray

    if uri not in large_folders:
        return open_shard(uri, path)

    cpus = 1.0
    if "://" in uri:
        cpus = REMOTE_CPUS
    task = ray.remote(num_cpus=cpus)(_opened_or_refused).options(name=f"list {path}")
    opened = ray.get(task.remote(uri, path))
    if isinstance(opened, UserError):
        raise opened
    return opened


def _opened_or_refused(uri: str, path: str) -> OpenedShard | UserError:
    """A damaged shard comes back as a value: as an error it would bring the task's traceback with it."""
    try:
        return open_shard(uri, path)
    except UserError as error:
        return error
