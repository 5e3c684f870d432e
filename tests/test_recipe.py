# SPDX-License-Identifier: Apache-2.0
"""Every shipped recipe loads with the tutorial's numbers; sections that do not fit are rejected."""

import re
from pathlib import Path

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.errors import ConfigError
from steerlm.recipe import Recipe, load_recipe, shipped
from tests.conftest import ROOT


@pytest.mark.parametrize("name", shipped("recipes"))
def test_every_recipe_and_its_profile_parse(name: str) -> None:
    resolved = load_recipe(name)
    assert resolved.recipe.name == name
    assert resolved.profile.name == resolved.recipe.profile


@pytest.mark.parametrize("name", shipped("profiles"))
def test_every_profile_is_used_by_a_recipe_or_documented(name: str) -> None:
    assert load_recipe("demo", name).profile.name == name
    named = {load_recipe(recipe).profile.name for recipe in shipped("recipes")}
    documented = [
        profile
        for path in (ROOT / "docs").glob("*.md")
        for profile in re.findall(r"--profile ([\w-]+)", path.read_text(encoding="utf-8"))
    ]
    assert name in named | {Recipe.model_fields["profile"].default} | set(documented)


def test_llama2_path_has_the_tutorials_numbers() -> None:
    resolved = load_recipe("steerlm-llama2")
    recipe, layouts = resolved.recipe, resolved.profile.layouts
    reward, sft = recipe.reward, recipe.sft
    assert reward is not None
    assert sft is not None
    assert recipe.base is not None
    assert recipe.base.fetch is not None
    assert recipe.base.reward is not None
    assert (recipe.base.fetch.uri, recipe.base.reward.uri) == (
        "hf://meta-llama/Llama-2-70b-hf",
        "hf://meta-llama/Llama-2-13b-hf",
    )
    assert len(recipe.attributes.names) == 9
    assert [(s.kind, s.repeat) for s in recipe.prepare_data.rated or ()] == [("oasst", 4), ("helpsteer", 4)]
    assert [s.kind for s in recipe.prepare_data.sources] == ["oasst"]
    # docs/upstream.md#training-defaults
    assert (reward.max_steps, reward.global_batch, reward.window, reward.precision) == (800, 512, 4096, "bf16")
    assert (reward.validate_every, reward.save_every, reward.save_minutes) == (10, None, 5)
    adam = reward.optimizer
    assert (adam.lr, adam.min_lr, adam.warmup_steps, adam.constant_steps) == (9e-6, 9e-7, 10, 0)
    assert (adam.betas, adam.eps, adam.weight_decay, adam.clip) == ((0.9, 0.98), 1e-8, 0.1, 1.0)
    layout = layouts.reward
    assert (layout.nodes, layout.devices, layout.tensor, layout.pipeline, layout.data_parallel) == (32, 8, 4, 1, 64)
    assert (layout.micro_batch, layout.recompute, layout.sequence_parallel) == (2, "none", True)
    # docs/upstream.md#sft-defaults
    assert (sft.max_steps, sft.global_batch, sft.window, sft.precision) == (800, 128, 4096, "bf16")
    assert (sft.validate_every, sft.validation_batches) == (None, 40)
    assert (sft.repeat, sft.denominator) == (2, "conversations")
    adam = sft.optimizer
    assert (adam.lr, adam.min_lr, adam.warmup_steps, adam.constant_steps) == (6e-6, 5e-6, 1, 200)
    assert adam.weight_decay == 0.01
    layout = layouts.sft
    assert (layout.nodes, layout.devices, layout.tensor, layout.pipeline, layout.micro_batch) == (32, 8, 8, 2, 1)
    assert (layout.recompute, layout.sequence_parallel) == ("none", True)


def test_helpsteer2_has_the_tutorials_numbers() -> None:
    resolved = load_recipe("helpsteer2-70b")
    reward, layout = resolved.recipe.reward, resolved.profile.layouts.reward
    assert reward is not None
    assert resolved.recipe.sft is None
    assert (reward.max_steps, reward.epochs, reward.global_batch) == (317, 2, 128)
    assert 2 * 20_324 // reward.global_batch == 317
    adam = reward.optimizer
    assert (adam.lr, adam.min_lr, adam.warmup_steps, adam.constant_steps) == (2e-6, 2e-6, 10, 0)
    assert (reward.validate_every, reward.save_every, reward.save_minutes) == (10, None, 5)
    assert (layout.nodes, layout.devices, layout.tensor, layout.pipeline, layout.data_parallel) == (8, 8, 8, 2, 4)
    assert (layout.micro_batch, layout.recompute, layout.sequence_parallel) == (1, "none", True)
    assert [resolved.recipe.attributes.default(n) for n in ("complexity", "verbosity", "helpfulness")] == [2, 2, 4]


@pytest.mark.parametrize("name", shipped("profiles"))
def test_every_profile_shares_activations_over_tensor_parallelism_and_recomputes_nothing(name: str) -> None:
    layouts = load_recipe("demo", name).profile.layouts
    for layout in (layouts.base, layouts.reward, layouts.sft):
        assert layout.sequence_parallel is (layout.tensor > 1)
        assert layout.recompute == "none"


@pytest.mark.parametrize("name", shipped("profiles"))
def test_a_profile_of_gpus_names_their_type(name: str) -> None:
    gpus = {"one-gpu": "rtx-4090", "eight-gpus": "h100", "llama2-32x8": "h100", "llama3-8x8": "h100", "cluster": "h100"}
    assert load_recipe("demo", name).profile.gpu == gpus.get(name)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("profile.gpu=a100", "--set profile.gpu=a100: gpu: unknown GPU type 'a100'; known: h100, "),
        ("profile.gpu_constants.gem_flops=1", "did you mean 'profile.gpu_constants.gemm_flops'?"),
        ("profile.gpu_constants.gemm_flops=-1", "gpu_constants.gemm_flops: a number above 0 was expected, not -1"),
        ("profile.gpu_constants.gemm_flops=fast", 'gpu_constants.gemm_flops: a number was expected, not "fast"'),
    ],
)
def test_a_wrong_gpu_is_rejected(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe("demo", "one-gpu", [override])
    assert message in str(error.value)


def test_recipes_for_one_machine_fit_one_machine() -> None:
    for name, devices in (("demo", 2), ("demo-real", 2), ("consumer-gpu", 1)):
        layouts = load_recipe(name).profile.layouts
        for layout in (layouts.base, layouts.reward, layouts.sft):
            assert (layout.nodes, layout.devices) == (1, devices)
        assert layouts.annotate.processes == 1, "these reward models fit one process"


def test_the_consumer_recipe_starts_from_a_public_model() -> None:
    base = load_recipe("consumer-gpu").recipe.base
    assert base is not None
    assert base.fetch is not None
    assert base.fetch.uri.startswith("hf://HuggingFaceTB/SmolLM2")


def test_an_override_goes_to_the_recipe_or_the_profile() -> None:
    resolved = load_recipe("demo", None, ["sft.optimizer.lr=1e-4", "profile.layouts.sft.devices=2", "profile.store=x"])
    assert resolved.recipe.sft is not None
    assert resolved.recipe.sft.optimizer.lr == 1e-4
    assert resolved.profile.layouts.sft.devices == 2
    assert resolved.profile.store == "x"
    with pytest.raises(ConfigError, match=r"--set profile\.layouts\.stf\.devices: .* 'profile\.layouts\.sft\.devices'"):
        load_recipe("demo", None, ["profile.layouts.stf.devices=2"])
    with pytest.raises(ConfigError, match=r"--set sft\.lr: unknown key; did you mean 'sft\.optimizer\.lr'\?"):
        load_recipe("demo", None, ["sft.lr=2"])


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe 'demoo' is shipped; did you mean 'demo'"):
        load_recipe("demoo")
    with pytest.raises(ConfigError, match="no profile 'one-gup' is shipped; did you mean 'one-gpu'"):
        load_recipe("demo", "one-gup")


def test_a_recipe_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(shipped("recipes")["demo"].read_text().replace("name: demo", "name: mine"))
    assert load_recipe(path).recipe.name == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sft.precision=fp32", "sft.reduce_gradients=bf16"], r"reduce_gradients bf16 needs precision bf16"),
        (["reward=null"], "annotate needs a reward model"),
        (["base=null"], "reward and sft start from a model"),
        (["base.train=null"], "give fetch"),
        (["base.train.shape=null"], "needs train.shape"),
        (["base.train.shape.vocab_size=100"], r"vocab_size is 100; the source toyworld's tokenizer has"),
        (["baseline.conditioned=true"], "conditioned: false"),
        (["sft=null"], "baseline needs the section sft"),
        (["evaluate=null"], "report shows the evaluation"),
        (["prepare_data.sources=[{kind: toyworld}, {kind: oasst}]"], "cannot be combined"),
        (["prepare_data.sources=[{kind: oast}]"], "prepare_data.sources.0"),
        (["prepare_data.sources=[{kind: oasst}]"], "needs plain text"),
        (["attributes.defaults.quality=9"], "outside 0..4"),
    ],
)
def test_sections_that_do_not_fit_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", None, overrides)


@pytest.mark.parametrize("section", ["base.train", "reward", "sft", "baseline"])
def test_a_seed_is_not_negative(section: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.seed: a number of at least 0 was expected, not -1"):
        load_recipe("demo", overrides=[f"{section}.seed=-1"])


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    for name in ("recipes/demo-real", "profiles/laptop"):
        text = (ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8")
        (tmp_path / f"{Path(name).name}.yaml").write_text("\ufeff" + text, encoding="utf-8", newline="\r\n")
    read = load_recipe(str(tmp_path / "demo-real.yaml"), str(tmp_path / "laptop.yaml"))
    assert read == load_recipe("demo-real", "laptop")


def test_own_attributes_and_range() -> None:
    schema = AttributeSchema(names=("warm", "brief", "odd"), low=0, high=9, defaults={"odd": 0})
    text = schema.model_dump_json()
    recipe = load_recipe("demo-real", None, [f"attributes={text}"]).recipe
    assert recipe.attributes == schema


def test_a_recipe_survives_json() -> None:
    for name in shipped("recipes"):
        resolved = load_recipe(name)
        assert Recipe.model_validate_json(resolved.recipe.model_dump_json()) == resolved.recipe
        assert type(resolved.profile).model_validate_json(resolved.profile.model_dump_json()) == resolved.profile
