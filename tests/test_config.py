import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hvsa_cvat.config import (
    FINETUNE_ONLY,
    HVSA,
    HVSA_CARRYING,
    PAPER,
    PAPER_EXACT,
    CarryingConfig,
    RunConfig,
    Strategy,
    TrainingConfig,
    choose_strategy,
    parse_size,
)
from hvsa_cvat.errors import ConfigError


def test_sizes_are_height_by_width() -> None:
    assert parse_size("192x256") == (192, 256)
    assert parse_size("32X8192") == (32, 8192)


@pytest.mark.parametrize(
    "text",
    ["", "192", "192x", "x256", "192x256x3", "192*256", "-64x64", "64.0x64", "31x64", "64x8193",
     "9²x64"],
)  # fmt: skip
def test_unusable_sizes_are_named(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_size(text)

    assert repr(text) in str(raised.value)


@settings(deadline=None)
@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_config_error(text: str) -> None:
    try:
        height, width = parse_size(text)
    except ConfigError:
        return
    assert 32 <= min(height, width) <= max(height, width) <= 8192


def test_run_config_survives_json() -> None:
    config = RunConfig(
        method="finetune-only",
        strategy="random",
        granularity="rectangle:16",
        budgets=(0.02, 0.05),
        size=(192, 256),
        seed=3,
        flow="dis",
        epsilon=2.0,
        charge_junctions=True,
    )

    again = RunConfig.model_validate_json(config.model_dump_json())

    assert again == config
    assert again.budgets == (0.02, 0.05)
    assert again.size == (192, 256)


def test_run_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="extra"):
        RunConfig.model_validate({"budgets": [0.1], "size": [32, 32], "epochs": 3})
    with pytest.raises(ValidationError, match="method"):
        RunConfig.model_validate({"budgets": [0.1], "size": [32, 32], "method": "magic"})


def test_whole_frames_are_spaced_evenly_by_default() -> None:
    assert choose_strategy(None, "hvsa", True) is Strategy.UNIFORM
    assert choose_strategy(None, "hvsa", False) is Strategy.ACTIVE
    assert choose_strategy(None, "paper", True) is Strategy.ACTIVE
    assert choose_strategy(Strategy.RANDOM, "hvsa", True) is Strategy.RANDOM
    assert choose_strategy(Strategy.UNIFORM, "paper", True) is Strategy.UNIFORM
    with pytest.raises(ConfigError, match="needs granularity frame"):
        choose_strategy(Strategy.UNIFORM, "hvsa", False)


def test_settings_do_not_change() -> None:
    config = RunConfig(budgets=(0.1,), size=(32, 32))

    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


def test_methods_and_their_training() -> None:
    def training(method: str) -> TrainingConfig | None:
        return RunConfig.model_validate(
            {"budgets": [0.1], "size": [32, 32], "method": method}
        ).training

    assert training("paper") == PAPER
    assert training("paper-exact") == PAPER_EXACT
    assert training("finetune-only") == FINETUNE_ONLY
    assert training("label-propagation") is None
    assert training("hvsa") == HVSA
    own = TrainingConfig(epochs=2)
    given = RunConfig(method="finetune-only", training=own, budgets=(0.1,), size=(32, 32))
    assert given.training == own
    assert RunConfig.model_validate_json(given.model_dump_json()) == given
    # the ablation differs in lambda alone
    assert PAPER.model_copy(update={"consistency_weight": 0.0}) == FINETUNE_ONLY


def test_only_hvsa_carries_labels_beside_a_network() -> None:
    def carrying(**settings: object) -> CarryingConfig:
        config = RunConfig.model_validate({"budgets": [0.1], "size": [32, 32], **settings})
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        return config.carrying

    assert carrying(method="hvsa") == HVSA_CARRYING
    assert HVSA_CARRYING.refined
    assert HVSA_CARRYING.smoothed
    for method in ("paper", "paper-exact", "finetune-only", "label-propagation"):
        assert carrying(method=method) == CarryingConfig()
    assert not carrying(method="paper").used
    assert not carrying(method="label-propagation").used
    part = CarryingConfig(fused=True)
    assert carrying(method="hvsa", carrying=part) == part


def test_paper_exact_are_the_numbers_of_the_paper() -> None:
    assert PAPER_EXACT.optimizer == "sgd"
    assert (PAPER_EXACT.learning_rate, PAPER_EXACT.momentum) == (0.004, 0.9)
    assert (PAPER_EXACT.epochs, PAPER_EXACT.batch_pairs) == (15, 14)
    assert (PAPER_EXACT.sampling, PAPER_EXACT.consistency_weight) == ("every-frame", 1.0)
