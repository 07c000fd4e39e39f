"""A setting is checked where it is made, in Python as in a configuration, by one type for both."""

from typing import Any

import numpy as np
import pytest

from p2pz_ray import GuidanceSettings, InversionSettings
from p2pz_ray.config import TranslateConfig, record
from p2pz_ray.config.file import load
from p2pz_ray.errors import ConfigError

WRONG = [
    ("guidance", {"reference": "recon"}, "'trajectory' or 'reconstruction'"),
    ("guidance", {"guided_every": 0}, "at least 1"),
    ("guidance", {"negative_every": 1.5}, "a whole number"),
    ("guidance", {"guided": 2.0}, "at most 1"),
    ("guidance", {"directed": [0.5, 0.2]}, "FROM no later than TO"),
    ("guidance", {"confined": [0.5]}, r"\[FROM, TO\]"),
    ("guidance", {"lambda_xa": -1}, "at least 0"),
    ("guidance", {"cfg": float("nan")}, "a finite number"),
    ("guidance", {"cfg": "5"}, "a number"),
    ("guidance", {"layers": "mid_block"}, "a list"),
    ("guidance", {"form": "Official"}, "'paper' or 'official'"),
    ("inversion", {"regularization": "Full"}, "'sampled', 'full', 'official' or 'none'"),
    ("inversion", {"steps": 0}, "at least 1"),
    ("inversion", {"steps": True}, "a whole number"),
    ("inversion", {"order": 3}, "1 or 2"),
]
KINDS: dict[str, Any] = {"guidance": GuidanceSettings, "inversion": InversionSettings}


@pytest.mark.parametrize(("section", "values", "says"), WRONG)
def test_the_same_is_refused_in_python_and_in_a_configuration(section: str, values: dict[str, Any], says: str) -> None:
    [(key, value)] = values.items()
    with pytest.raises(ConfigError, match=f"{key} is .*but it must be .*{says}") as caught:
        KINDS[section](**values)
    assert "\n" not in str(caught.value)
    written = ".nan" if value != value else repr(value).lower() if isinstance(value, bool) else repr(value)
    overrides = [f"{section}.{key}={written}", "input.uri=a", "output=b", "edits={e: {source: cat, target: dog}}"]
    with pytest.raises(ConfigError, match=f"{section}.{key} is .*but it must be .*{says}"):
        load(None, overrides, TranslateConfig)


def test_a_configuration_takes_the_settings_themselves() -> None:
    guidance = GuidanceSettings(form="official", cfg=3)
    edits = {"e": {"source": "cat", "target": "dog"}}
    given = {"input": {"uri": "a"}, "output": "b", "edits": edits, "guidance": guidance}
    assert TranslateConfig.model_validate(given).guidance == guidance


def test_numpys_numbers_become_pythons() -> None:
    settings = GuidanceSettings(lambda_xa=np.float32(0.5), guided_every=np.int64(2))  # type: ignore[arg-type]
    assert (type(settings.lambda_xa), type(settings.guided_every)) == (float, int)
    assert settings == GuidanceSettings(lambda_xa=0.5, guided_every=2)


def test_a_windows_end_alone_is_a_window_from_the_first_step_on() -> None:
    given = {"input": {"uri": "a"}, "output": "b", "edits": {"e": {"source": "cat", "target": "dog"}}}
    config = TranslateConfig.model_validate({**given, "guidance": {"guided": 0.5, "directed": [0.2, 1]}})
    assert config.guidance == GuidanceSettings(guided=[0.0, 0.5], directed=(0.2, 1.0))  # type: ignore[arg-type]
    assert TranslateConfig.model_validate(record(config)).guidance == config.guidance


@pytest.mark.parametrize(
    "values", [{"strength": 1.0}, {"reference": "reconstruction"}, {"guided_every": 2}, {"reuse": True}, {"order": 2}]
)
def test_what_the_official_form_does_not_know_is_refused(values: dict[str, Any]) -> None:
    [key] = values
    with pytest.raises(ConfigError, match=f"form official doesn't support {key}"):
        GuidanceSettings(form="official", **values)
    given = {"input": {"uri": "a"}, "output": "b", "edits": {"e": {"source": "cat", "target": "dog"}}}
    with pytest.raises(ValueError, match=f"form official doesn't support {key}"):
        TranslateConfig.model_validate({**given, "guidance": {"form": "official", **values}})
