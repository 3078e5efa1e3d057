"""Handing a manifest to Kubernetes, with a stand-in for kubectl."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.kuberay import apply, render
from cluster.kuberay_settings import KubeRaySettings

SETTINGS = KubeRaySettings(namespace="lab", image="registry.example.org/usweep:1", claim="usweep")
MANIFEST = render(SETTINGS, "digits", ["usweep", "run"], {}, {"config.yaml": "name: digits\n"})


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A stand-in for kubectl, a shell script; what it was given lies in the folder."""

    def install(body: str) -> Path:
        program = tmp_path / "kubectl"
        program.write_text(f'#!/bin/sh\nF="{tmp_path}"\necho "$*" >> "$F/calls"\n{body}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return install


def test_a_manifest_is_handed_over_and_followed(kubectl: Callable[[str], Path]) -> None:
    folder = kubectl('[ "$1" = get ] || cat > "$F/manifest"')
    commands = apply(MANIFEST, SETTINGS)
    assert (folder / "manifest").read_text() == MANIFEST
    get, put = (folder / "calls").read_text().splitlines()
    assert get == "get rayjob digits --namespace lab --ignore-not-found -o name"
    assert put == "apply --namespace lab --filename -"
    assert commands[1] == "kubectl --namespace lab logs --follow job/digits"
    assert (
        commands[-1] == "kubectl --namespace lab delete rayjob,configmap digits --ignore-not-found"
    )


def test_a_job_that_is_there_already_is_not_touched(kubectl: Callable[[str], Path]) -> None:
    folder = kubectl("echo rayjob.ray.io/digits")
    with pytest.raises(ClusterError, match=r"RayJob digits already.*delete rayjob"):
        apply(MANIFEST, SETTINGS)
    assert "apply" not in (folder / "calls").read_text()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            'error: the server doesn\'t have a resource type "rayjob"',
            'kubectl get: error: the server doesn\'t have a resource type "rayjob"; '
            "is KubeRay installed there?",
        ),
        (
            "Warning: use of something old\n\nerror: You must be logged in to the server",
            "kubectl get: error: You must be logged in to the server",
        ),
        ("", "kubectl get: no reason given"),
    ],
)
def test_what_kubectl_says_is_one_line(
    kubectl: Callable[[str], Path], said: str, expected: str
) -> None:
    folder = kubectl('cat "$F/said" >&2; exit 1')
    (folder / "said").write_text(said)
    with pytest.raises(ClusterError) as refusal:
        apply(MANIFEST, SETTINGS)
    assert str(refusal.value) == expected


def test_without_kubectl_the_manifest_can_still_be_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="--dry-run"):
        apply(MANIFEST, SETTINGS)


def test_a_kubernetes_out_of_reach_does_not_hold_up_for_ever(
    kubectl: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl("exec sleep 20")
    monkeypatch.setattr("cluster.kuberay._KUBECTL_S", 0.2)
    with pytest.raises(ClusterError, match="within reach"):
        apply(MANIFEST, SETTINGS)
