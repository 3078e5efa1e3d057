"""A sweep as a RayJob of Kubernetes, or as a job of a Ray that is there already."""

import os
from pathlib import PurePosixPath
from typing import Any

from cluster import kuberay, ray_jobs
from cluster.kuberay_settings import KubeRaySettings
from sweep.config import ResolvedConfig
from sweep.errors import SweepError
from sweep.files import write_atomically
from sweep.run import CONFIG_FILE


def dry_run(config: ResolvedConfig, site: Any, plugins: str) -> str:
    """What `submit` would hand over: a manifest, or a command."""
    _check(config, site, plugins)
    if isinstance(site, KubeRaySettings):
        return _manifest(config, site)
    return f"job of the Ray at {site.address}: {' '.join(_command(config, site))}"


def submit(config: ResolvedConfig, site: Any, plugins: str) -> str:
    """Hand a sweep over; what to do next, in lines.

    Raises:
        ClusterError: the cluster doesn't answer, or refuses.
        SweepError: settings that cannot work together.
    """
    _check(config, site, plugins)
    if isinstance(site, KubeRaySettings):
        return "\n".join(kuberay.apply(_manifest(config, site), site))
    write_atomically(config.sweep.run_folder / CONFIG_FILE, config.to_yaml())
    job = ray_jobs.submit(site, config.sweep.name, _command(config, site), {})
    address = f"--address {site.address}"
    lines = [f"job {job}", f"  ray job logs --follow {address} {job}"]
    lines += [
        f"  ray job stop {address} {job}",
        f"  usweep status {config.sweep.run_folder} --watch",
    ]
    return "\n".join(lines)


def _check(config: ResolvedConfig, site: Any, plugins: str) -> None:
    grace_s = config.sweep.resources.grace_s
    if grace_s >= site.grace_s:
        raise SweepError(
            f"resources.grace_s is {grace_s:g} s, but the cluster kills the sweep {site.grace_s} s "
            "after asking it to end; raise grace_s in the site's file, or lower resources.grace_s"
        )
    files = [plugin for plugin in plugins.split(os.pathsep) if plugin.endswith(".py")]
    if files:
        raise SweepError(
            f"{files[0]} is a file of this machine; install plug-ins where the sweep runs, and "
            "name them as modules"
        )


def _manifest(config: ResolvedConfig, site: KubeRaySettings) -> str:
    sweep = config.sweep
    folders = {
        "output.store": sweep.output.store,
        "output.runs": sweep.output.runs,
        "data.root": sweep.data.root,
        "data.prepared": str(sweep.data.prepared_root),
    }
    kuberay.require_on_volume(site, folders)
    command = [*site.usweep, "run", str(PurePosixPath(kuberay.FILES_FOLDER) / CONFIG_FILE)]
    command += ["--address", "auto", "--wait-nodes", str(site.workers.count)]
    files = {CONFIG_FILE: config.to_yaml()}
    return kuberay.render(site, kuberay.job_name(sweep.name), command, {}, files)


def _command(config: ResolvedConfig, site: ray_jobs.RayJobsSettings) -> list[str]:
    path = config.sweep.run_folder.resolve() / CONFIG_FILE
    return [*site.usweep, "run", str(path), "--address", "auto"]
