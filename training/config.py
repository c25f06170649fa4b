"""Settings of a training: one YAML file, checked whole; every default stands here and only here."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from codec.conditioning import ConditionerSpec
from codec.network import SscnetSpec
from codec.shortcut import CHANNELS
from training.errors import SettingsError

BITS_WEIGHT: Final = math.log(2) / 6
"""What a bit may cost in squared steps: the slope of a uniform quantizer at high rate, where a
distortion of step²/12 falls by a factor of four with every bit."""

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Widths = tuple[Count, Count, Count, Count]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SceneSettings(_Section):
    """The `scenes:` section: what belongs together and what is held back.

    Attributes:
        groups: Scenes that overlap or adjoin, as patterns over their paths below the scene folder;
            a scene in none is a group of its own, named after its file.
        validation: Names of the groups held back.
        exclude: Scenes left out, as patterns like those of groups: one of two names of a scene.
    """

    groups: dict[str, tuple[str, ...]] = {}
    validation: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class NetworkSettings(_Section):
    """The `network:` section.

    Attributes:
        components: Components the branch sees; without a shortcut, the bands of a tile.
        sent_components: Most components sent; those beyond the branch's go through the shortcut.
        encoder_widths: Channels after encoder layers 1 to 4.
        decoder_widths: Channels after decoder layers 1 to 4; beside the wavelet, of the network
            that restores coefficients.
        latent_channels: Channels of the bottleneck; beside a shortcut there are 64 per component.
        shortcut: The linear transform beside the branch; none is the paper's network, alone.
        squash: Magnitude at which the branch's input is halved [steps].
        default_step: Quantizer step of the bundle [10⁻⁴ reflectance].
    """

    components: Count = 16
    sent_components: Count = 32
    encoder_widths: Widths = (96, 96, 96, 192)
    decoder_widths: Widths = (24, 24, 16, 16)
    latent_channels: Count = 1024
    shortcut: Literal["none", "wavelet", "dct"] = "wavelet"
    squash: Positive = 16.0
    default_step: Positive = 192.0

    def spec(self) -> SscnetSpec:
        """Describe the networks."""
        if self.shortcut == "none":
            return SscnetSpec(
                components=self.components,
                latent_channels=self.latent_channels,
                encoder_widths=self.encoder_widths,
                decoder_widths=self.decoder_widths,
            )
        return SscnetSpec(
            components=self.components,
            latent_channels=CHANNELS * self.components,
            encoder_widths=self.encoder_widths,
            decoder_widths=self.decoder_widths,
            shortcut=self.shortcut,
            output="linear",
            squash=self.squash,
        )

    def conditioner(self) -> ConditionerSpec:
        """Describe the conditioner."""
        if self.shortcut == "none":
            return ConditionerSpec(kind="minmax", components=self.components, clip=True)
        return ConditionerSpec(kind="klt", components=self.sent_components)


class FitSettings(_Section):
    """The `fit:` section, and with fewer epochs `prune: tune:`.

    Attributes:
        epochs: Passes.
        crops_per_epoch: Random crops a pass draws.
        batch_crops: Crops of a gradient step.
        crop_px: Edge of a crop, a multiple of 8 [px].
        learning_rate: Largest of the one-cycle schedule.
        gradient_norm: Larger gradients are scaled down to it.
        bits_weight: Squared steps a bit may cost.
        octaves: Steps trained on, as octaves around the default step.
        precision: What the convolutions compute in; bfloat16 is 1.6 × as fast on AVX-512 cores, and
            on cores without it float32 is computed in.
        checkpoint_minutes: Time between two checkpoints within an epoch; there is one after each.
        patience: Epochs without a better one after which the training ends; None: it never does.
    """

    epochs: Count = 30
    crops_per_epoch: Count = 1024
    batch_crops: Count = 16
    crop_px: Annotated[int, Field(gt=0, multiple_of=8)] = 64
    learning_rate: Positive = 1e-3
    gradient_norm: Positive = 1.0
    bits_weight: Positive = BITS_WEIGHT
    octaves: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    patience: Count | None = None


class PruneSettings(_Section):
    """The `prune:` section.

    Attributes:
        ratio: Share of each layer's channels FasterAI removes; a least share if there is a target.
        layers: Ratios of single layers, which targets leave as they are; by name, as in
            `encoder.0`, of a network without a shortcut.
        fewer_params: Target: this share of the parameters, at least, has to go.
        fewer_macs: Target: this share of the multiply-accumulates, at least, has to go.
        fewer_ms: Target: this share of the time the encoder takes here, measured, has to go.
        criterion: FasterAI's measure of which channels matter least.
        context: What the ratio is of: each layer, all together (weak layers lose more), or each
            layer by its sensitivity, measured: those that bear it lose more, others less. Beside a
            shortcut: of each layer, or of all together.
        schedule: When: all before tuning (one_shot), or while tuning, by FasterAI's schedule of
            that name: in three goes, or little by little, most of it early. Beside a shortcut:
            one_shot.
        done_at: Share of the tuning after which the others have taken all they take.
        distill: Weight of the unpruned network's answer against the truth while tuning, by
            FasterAI. Only with a schedule.
        round_to: Widths left of SSCNet's layers are multiples of it.
        restorer_round_to: Those left of the network that restores coefficients.
        tune: How the pruned networks are trained again.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.34
    layers: dict[str, Annotated[float, Field(ge=0, lt=1)]] = {}
    fewer_params: Annotated[float, Field(gt=0, lt=1)] | None = None
    fewer_macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    fewer_ms: Annotated[float, Field(gt=0, lt=1)] | None = None
    criterion: Literal["large_final", "squared_final", "random"] = "large_final"
    context: Literal["local", "global", "sensitivity"] = "local"
    schedule: Literal["one_shot", "iterative", "agp"] = "one_shot"
    done_at: Annotated[float, Field(gt=0, le=1)] = 0.6
    distill: Annotated[float, Field(ge=0, le=1)] = 0.0
    round_to: Count = 16
    restorer_round_to: Count = 4
    tune: FitSettings = FitSettings(epochs=12, learning_rate=5e-4)


class ContextSettings(_Section):
    """The `calibrate: contexts:` section: how contexts are trained.

    Attributes:
        trust: Decisions after which a chance moves no slower in training.
        kept: Decisions a chance counts for when a patch starts: fewer, and it adapts faster.
        seed: Of the order of patches.
    """

    trust: Annotated[int, Field(gt=0, lt=1024)] = 1023
    kept: Annotated[int, Field(ge=0, lt=1024)] = 90
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class CalibrateSettings(_Section):
    """The `calibrate:` section.

    Attributes:
        contexts: How contexts are trained.
        octaves: Steps measured at, as octaves around the default step.
        law_share: Share of the analytic law in a table, however many symbols were counted. The
            counts alone serve the airborne scenes they were counted on slightly better (0.04 % of
            the bytes on average), and cost 0.2 % on EnMAP, which this gains.
        prior_symbols: Weight of the analytic law in a table of few symbols, in symbols.
        range_quantile: Share of an encoder convolution's input magnitudes that the int8 range
            covers; what lies beyond is limited. 1: all of them.
    """

    contexts: ContextSettings = ContextSettings()
    octaves: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    law_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    prior_symbols: Positive = 2000.0
    range_quantile: Annotated[float, Field(gt=0, le=1)] = 0.9999


class RestoreSettings(_Section):
    """The `restore:` section: how the network that restores coefficients is trained.

    Attributes:
        epochs: Passes; the best one on held-back scenes is kept.
        batches_per_epoch: Gradient steps of a pass.
        batch_rows: Coefficients of a gradient step.
        rows_per_patch: Coefficients drawn from each coded patch, at most.
        learning_rate: Largest of the one-cycle schedule.
        octaves: Steps trained on, as octaves around the default step.
    """

    epochs: Count = 12
    batches_per_epoch: Count = 500
    batch_rows: Count = 8192
    rows_per_patch: Count = 20_000
    learning_rate: Positive = 3e-3
    octaves: Annotated[tuple[float, ...], Field(min_length=1)] = (-1.0, -0.5, 0.0, 0.5, 1.0)


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(after <= before for before, after in pairwise(values)):
        raise ValueError("must ascend")
    return values


def _descending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(after >= before for before, after in pairwise(values)):
        raise ValueError("must descend")
    return values


Ladder = Annotated[tuple[Positive, ...], AfterValidator(_descending)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class BaselineSettings(_Section):
    """The `report: baselines:` section: how far the codecs ours is held against are searched.

    Attributes:
        components: Component counts of KLT + JPEG 2000, ascending. Beyond 64 they matter from half
            a bit per sample on: without them the curve levels off.
        steps: Steps of its irreversible variants, descending [10⁻⁴ reflectance].
        reversible_steps: Steps its components are rounded to before they are coded without loss.
        band_steps: Steps of JPEG 2000 without a KLT [10⁻⁴ reflectance].
        distances: JPEG XL's scale of loss, from its coarsest; 1 is meant to be invisible.
    """

    components: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_ascending)] = (
        *(4, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    )
    steps: Ladder = tuple(2048.0 * 2.0 ** (-i / 2) for i in range(20))
    reversible_steps: Ladder = (32.0, 16.0, 8.0, 4.0, 2.0)
    band_steps: Ladder = tuple(4096.0 * 2.0 ** (-i / 2) for i in range(20))
    distances: Ladder = (25.0, 15.0, 8.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.25, 0.1)


class ReportSettings(_Section):
    """The `report:` section.

    Attributes:
        steps: Steps scored beside the bundle's own [10⁻⁴ reflectance]; each scene from the coarsest
            to the first that takes more bits than anybody asks for.
        ranges: Rates that Bjøntegaard's deltas are taken over, (low, high) [bits per sample].
        baselines: What ours is held against.
    """

    steps: Annotated[Ladder, Field(min_length=2)] = tuple(
        float(f"{1024 * 2 ** (-0.6 * i):.3g}") for i in range(15)
    )
    ranges: tuple[Range, ...] = ((0.05, 0.5), (0.5, 2.0))
    baselines: BaselineSettings = BaselineSettings()


class ReproduceSettings(_Section):
    """The `reproduce:` section: what is read of a HySpecNet-11k tree or store.

    Attributes:
        difficulty: Which of the published splits.
        most_flagged: Share of a patch's pixels that may be clouded, hazy, in shadow, under snow or
            without data; those with more are not trained on. 1: none is left out, as in the paper.
        patches_scored: Test patches that are scored, at most, drawn at random; as many of the
            training part count the tables.
    """

    difficulty: Literal["easy", "hard"] = "easy"
    most_flagged: Annotated[float, Field(ge=0, le=1)] = 1.0
    patches_scored: Count = 200


class Settings(_Section):
    """The whole file.

    Attributes:
        seed: Seed of everything random.
        scenes: What is trained on.
        network: What is trained.
        fit: How.
        prune: How it is pruned.
        calibrate: How tables, scales and ranges are measured.
        restore: How the network on the ground is trained.
        report: What is scored, and against what.
        reproduce: How the paper is reproduced.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    scenes: SceneSettings = SceneSettings()
    network: NetworkSettings = NetworkSettings()
    fit: FitSettings = FitSettings()
    prune: PruneSettings = PruneSettings()
    calibrate: CalibrateSettings = CalibrateSettings()
    restore: RestoreSettings = RestoreSettings()
    report: ReportSettings = ReportSettings()
    reproduce: ReproduceSettings = ReproduceSettings()


def load_settings(path: Path | None) -> Settings:
    """Read and check a settings file; None gives the defaults.

    Raises:
        SettingsError: If it is absent, no YAML, or has an unknown key or a value out of range;
            one line per problem.
    """
    if path is None:
        return Settings()
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"{path}: {reason}; remedy: name a readable YAML file") from None
    try:
        return Settings.model_validate({} if content is None else content)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}, "
            f"got {problem['input']!r}"
            for problem in error.errors()
        ]
        raise SettingsError("\n".join(lines)) from None
