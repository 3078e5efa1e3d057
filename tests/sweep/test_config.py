"""Configuration: what is merged, and what is refused with which words."""

from pathlib import Path

import pytest

from sweep.config import load_config
from unlearning.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load_config([path], []).trials


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "preset").glob("*.yaml")))
def test_every_preset_merges_with_a_sweep_and_changes_it(path: Path) -> None:
    plain, changed = load_config([QUICKSTART], []), load_config([QUICKSTART, path], [])
    assert changed.trials != plain.trials
    assert changed.sweep == plain.sweep


def test_paper_grid_has_the_papers_hundred_ratios_and_epochs() -> None:
    config = load_config([ROOT / "configs" / "paper.yaml"], [])
    assert config.sweep.grid.forget_ratios == [i / 1000 for i in range(1, 101)]
    epochs = {name: trial.training.epochs for name, trial in config.trials.items()}
    assert epochs == {
        "mnist": 50,
        "fashion_mnist": 50,
        "cifar10": 100,
        "cifar100": 100,
        "svhn": 50,
        "ham10000": 100,
    }
    for trial in config.trials.values():
        assert trial.retraining.epochs == trial.training.epochs // 2


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("name: a\ndatasets: {digits: {}}\ngrid: {forget_ratios: [0.1], seeds: [1]}\n")
    second.write_text("name: b\ngrid: {seeds: [2, 3]}\n")
    config = load_config([first, second], ["grid.forget_ratios=[0.2]"])
    assert config.sweep.name == "b"
    assert config.sweep.grid.seeds == [2, 3]
    assert config.sweep.grid.forget_ratios == [0.2]


def test_shared_settings_reach_every_data_set_and_its_own_settings_win(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "settings: {training: {epochs: 3, batch_size: 16}}\n"
        "datasets: {digits: {}, mnist: {training: {epochs: 4}}}\n"
        "grid: {forget_ratios: [0.1]}\n"
    )
    trials = load_config([path], []).trials
    assert trials["digits"].training.epochs == 3
    assert trials["mnist"].training.epochs == 4
    assert trials["mnist"].training.batch_size == 16


def test_a_range_includes_both_ends_and_a_list_can_override_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "datasets: {digits: {}}\ngrid: {forget_ratios: {start: 0.1, stop: 0.3, step: 0.1}}\n"
    )
    assert load_config([path], []).sweep.grid.forget_ratios == [0.1, 0.2, 0.3]
    assert load_config([path], ["grid.forget_ratios=[0.5]"]).sweep.grid.forget_ratios == [0.5]


def test_resolved_configuration_gives_the_same_sweep_again(tmp_path: Path) -> None:
    config = load_config([QUICKSTART], [f"output.store={tmp_path}/s", "data.root=elsewhere"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = load_config([path], [])
    assert again.trials == config.trials
    assert again.sweep.grid == config.sweep.grid
    assert again.sweep.output.store == f"{tmp_path}/s"
    assert Path(again.sweep.data.root).is_absolute()
    assert again.to_yaml() == path.read_text()


REFUSED = {
    "grid.sedes=[1]": "unknown key 'grid.sedes'; did you mean 'seeds'?",
    "datasets.digits.training.epoch=1": "unknown key 'datasets.digits.training.epoch'",
    "nonsense=1": "unknown key 'nonsense'",
    "settings.training.epoch=1": "unknown key 'datasets.digits.training.epoch'",
    "datasets.digits.training.epochs=0": "datasets.digits.training.epochs is 0; allowed: 1 or more",
    "datasets.digits.training.epochs=ten": "datasets.digits.training.epochs",
    "datasets.digits.neutralization.batch_size=0": "neutralization.batch_size is 0",
    "datasets.digits.neutralization.target=none": "allowed: zero, random",
    "datasets.digits.numerics.precision=fp16": "allowed: float32, bf16",
    "datasets.digits.model.name=vgg": "known models: resnet50, two_conv",
    "datasets.digits.source.reader=imagenet": "digits",
    "datasets.mnsit.training.epochs=3": "datasets.mnsit.source.reader is missing",
    "datasets.digits=3": "datasets.digits is 3",
    "datasets=3": "datasets is 3",
    "grid=3": "GridConfig",
    "grid.seeds=3": "grid.seeds",
    "grid.seeds=[a]": "grid.seeds[0]",
    "grid.seeds=[0,0]": "each value once",
    "grid.seeds=[]": "grid.seeds is []; allowed: a list of one or more",
    "grid.datasets=[mnist]": "data set 'mnist' is not configured; datasets: digits",
    "grid.strategies=[min]": "known: maximum, maximum_independent, minimum",
    "grid.forget_ratios=[0]": "grid.forget_ratios is 0.0; allowed: above 0",
    "grid.forget_ratios=[-0.1]": "allowed: above 0",
    "grid.forget_ratios=[1.5]": "at most 1",
    "grid.forget_ratios=[]": "grid.forget_ratios is []",
    "grid.forget_ratios.step=0.1": "exactly the keys start, stop and step",
    "output.keep_models=[teacher]": "scratch, neutralized, retrained",
    "resources.gpus=2": "from 0 to 1",
    "resources.cpus=0": "above 0",
    "resources.datasets.digits.gpus=2": "from 0 to 1",
    "resources.retries=-1": "0 or more",
    "grid.training_seeds=[]": "grid.training_seeds",
    "grid.forget_seeds=[1,1]": "each value once",
    "grid.forget_ratios=[1e-7]": "grid.forget_ratios is 0.0",
    "resources.datasets.mnist.cpus=1": "data set 'mnist' is not configured",
    "name=../up": "letters, digits",
    "name=": "name",
    "include=[a.yaml]": "cannot be an override",
    "quickstart": "does not exist",
    "=3": "neither a .yaml file nor an override",
}


@pytest.mark.parametrize(("override", "words"), REFUSED.items(), ids=lambda text: text[:40])
def test_a_bad_setting_is_refused_with_its_name_and_what_is_allowed(
    override: str, words: str
) -> None:
    files = [QUICKSTART] if "=" in override else [QUICKSTART, Path(override)]
    with pytest.raises(ConfigError) as caught:
        load_config(files, [override] if "=" in override else [])
    assert words in str(caught.value)


def test_an_exception_for_a_data_set_changes_only_what_it_names() -> None:
    config = load_config([QUICKSTART], ["resources.gpus=0.5", "resources.datasets.digits.cpus=2"])
    share = config.sweep.resources.of("digits")
    assert (share.cpus, share.gpus) == (2, 0.5)
    assert config.sweep.resources.of("another").cpus == 1


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    for content in ("a: [1", "- 1\n- 2\n", "a: 1\na: 2\n", "a: \x00"):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml"):
            load_config([path], [])
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config([path], [])


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: [b.yaml]\n")
    (tmp_path / "b.yaml").write_text("include: [a.yaml]\n")
    with pytest.raises(ConfigError, match="includes itself"):
        load_config([tmp_path / "a.yaml"], [])


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    mark = tmp_path / "ran"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml"):
        load_config([path], [])
    assert not mark.exists()
